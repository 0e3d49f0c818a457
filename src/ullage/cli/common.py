"""What all commands share: settings from flags, and how they fail."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import typer

from ullage.config import ConfigError, Settings, load_settings


def fail(message: str, code: int = 1) -> NoReturn:
    """One line on stderr, and an exit code as az's: 1 error, 2 usage, 3 not found."""
    typer.echo(f"ullage: {message}", err=True)
    raise typer.Exit(code)


def settings_from(flags: Mapping[str, str | None], config: Path | None) -> Settings:
    try:
        return load_settings(flags, os.environ, config)
    except ConfigError as error:
        fail(str(error), 2)
