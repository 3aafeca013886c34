"""The command `kubeferry`."""

from pathlib import Path
from typing import Annotated, TypeVar

import typer
from pydantic import BaseModel

from kubeferry import __version__
from kubeferry.agent.transfer.vocabulary import RECEIVING, SENDING
from kubeferry.cli.config import ConfigError, read_config
from kubeferry.cli.logs import LogFormat, configure_logs

M = TypeVar("M", bound=BaseModel)

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

ConfigFile = Annotated[Path, typer.Option("--config", help="The YAML file with the configuration.")]

LogFormatOption = Annotated[LogFormat, typer.Option("--log-format", help="json or text.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def kubeferry(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Tell the version.")] = False,
) -> None:
    """Cold-migrates virtual machines between Kubernetes nodes."""


@app.command()
def controller(config: ConfigFile) -> None:
    """Run the controller, until SIGTERM."""
    from kubeferry.controller.run import run_controller
    from kubeferry.controller.settings import ControllerSettings

    settings = _read(config, ControllerSettings)
    configure_logs(settings.log_format)
    run_controller(settings)


@app.command()
def agent(config: ConfigFile) -> None:
    """Run the agent of this node, until SIGTERM."""
    from kubeferry.agent.identity import IdentityError
    from kubeferry.agent.run import run_agent
    from kubeferry.agent.settings import AgentSettings

    settings = _read(config, AgentSettings)
    configure_logs(settings.log_format)
    try:
        run_agent(settings)
    except IdentityError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(code=1) from error


@app.command(SENDING, hidden=True)
def send_copy(log_format: LogFormatOption) -> None:
    """Send a copy: a process of this node's agent, never run by hand."""
    from kubeferry.agent.transfer.run import run_sender

    configure_logs(log_format)
    run_sender()


@app.command(RECEIVING, hidden=True)
def receive_copy(log_format: LogFormatOption) -> None:
    """Receive a copy: a process of this node's agent, never run by hand."""
    from kubeferry.agent.transfer.run import run_receiver

    configure_logs(log_format)
    run_receiver()


def _read(config: Path, model: type[M]) -> M:
    try:
        return read_config(config, model)
    except ConfigError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(code=2) from error


if __name__ == "__main__":
    app()
