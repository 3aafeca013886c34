"""Logs: one line an event on standard error, as JSON or as text, from us and from every library alike."""

import logging
import logging.config
from typing import Literal

import structlog

LogFormat = Literal["json", "text"]


def configure_logs(log_format: LogFormat) -> None:
    """Render what structlog and the standard library log. Values bound by `structlog.contextvars` are on each line.

    Args:
        log_format: `json` for machines; `text` for people.
    """
    before: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*before, structlog.stdlib.PositionalArgumentsFormatter(), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=before,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(log_format)],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    logging.getLogger("paramiko").setLevel(logging.WARNING)  # at INFO it tells of every connection
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)  # at INFO it tells of every event handled


def _renderers(log_format: LogFormat) -> list[structlog.typing.Processor]:
    if log_format == "text":
        return [structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(sort_keys=False)]
