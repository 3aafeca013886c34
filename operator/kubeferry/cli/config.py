"""Reading configuration files."""

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

M = TypeVar("M", bound=BaseModel)


class ConfigError(Exception):
    """A configuration file can't be used; the message names the file, and each key that is wrong."""

    reason = "InvalidConfiguration"


def read_config(path: Path, model: type[M]) -> M:
    """The settings that a YAML file holds; an empty file gives the defaults.

    Raises:
        ConfigError: it can't be read, is no YAML mapping, or holds a key or a value that the model refuses.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: can't be read as YAML: {error}") from error
    try:
        return model.model_validate({} if content is None else content)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{path}: {problem}" for problem in _problems(error))) from error


def _problems(error: ValidationError) -> list[str]:
    return [f"{'.'.join(map(str, found['loc'])) or 'the file'}: {found['msg']}" for found in error.errors()]
