"""The settings as flags, and what was given of them."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ullage.cli.shell.commands import Flag
from ullage.cli.shell.errors import Failure
from ullage.config.loading import load_settings
from ullage.config.settings import SETTINGS, Setting, Settings
from ullage.config.values import ConfigError

CONFIG = Flag(("--config",), "TOML file with settings. [ULLAGE_CONFIG]", "FILE")


def setting_flags(*names: str) -> tuple[Flag, ...]:
    """A flag for each of these settings, or for all of them, and one for the file they are in."""
    chosen = [setting for setting in SETTINGS if not names or setting.name in names]
    return (*map(_flag, chosen), CONFIG)


def _flag(setting: Setting) -> Flag:
    # No default of the parser's own: load_settings must see which source a value came from.
    default = f" [default: {setting.default}]" if setting.default else ""
    text = f"{setting.help}{default} [{setting.variable}]"
    return Flag((setting.flag,), text, setting.kind, three_state=setting.switch)


def settings_of(given: argparse.Namespace, *, to_serve: bool = True) -> Settings:
    """Settings from flags, variables and the file. Raises Failure.

    Not `to_serve`: also some that no server would start with.
    """
    flags = {setting.name: getattr(given, setting.name, None) for setting in SETTINGS}
    config = None if given.config is None else Path(given.config)
    try:
        return load_settings(flags, os.environ, config, to_serve=to_serve)
    except ConfigError as error:
        raise Failure(str(error), 2) from None
