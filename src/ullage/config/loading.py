"""Settings from flags, `ULLAGE_*` variables or a TOML file, in that order."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ullage.config.sense import require_sense
from ullage.config.settings import SETTINGS, Settings
from ullage.config.values import ConfigError, wrong


def load_settings(
    flags: Mapping[str, str | None],
    environment: Mapping[str, str],
    config: Path | None = None,
    *,
    to_serve: bool = True,
) -> Settings:
    """Every setting from the first source that has it. Raises ConfigError.

    `to_serve`: also where together they make no sense.
    """
    chosen = config or (
        Path(environment["ULLAGE_CONFIG"]) if "ULLAGE_CONFIG" in environment else None
    )
    file = _read_file(chosen) if chosen else {}
    _refuse_unknown(environment, file, chosen)
    values = {}
    for setting in SETTINGS:
        flag = flags.get(setting.name)
        if flag is not None:
            values[setting.name] = setting.parse(setting.flag, flag)
        elif setting.variable in environment:
            values[setting.name] = setting.parse(setting.variable, environment[setting.variable])
        elif setting.name in file:
            name = f"{setting.name} in {chosen}"
            values[setting.name] = setting.parse(name, _as_text(name, file[setting.name]))
        else:
            values[setting.name] = setting.parse(setting.name, setting.default)
    settings = Settings(**values)
    if to_serve:
        require_sense(settings)
    return settings


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"configuration file {path}: {error.strerror} - name another one with --config"
        ) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"configuration file {path}: {error}") from error


# Variables that are no settings: where the file is, and what commands that talk to a server use.
_OTHER_VARIABLES = {
    "ULLAGE_CA_FILE",
    "ULLAGE_CONFIG",
    "ULLAGE_FAILPOINTS",
    "ULLAGE_REGISTRY",
    "ULLAGE_REQUIRE_CLIENTS",
}


def _refuse_unknown(
    environment: Mapping[str, str], file: Mapping[str, Any], path: Path | None
) -> None:
    """A misspelt setting must not be taken for the default."""
    names = {setting.name for setting in SETTINGS}
    for name in file:
        if name not in names:
            raise ConfigError(f"{name} in {path}: no such setting; {_meant(name, names)}")
    known = {setting.variable for setting in SETTINGS} | _OTHER_VARIABLES
    for name in environment:
        if name.startswith("ULLAGE_") and name not in known:
            raise ConfigError(f"{name}: no such setting; {_meant(name, known)}")


def _meant(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, known, 1)
    return f"did you mean {close[0]}?" if close else "see docs/reference/settings.md"


def _as_text(name: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return ",".join(value)
    if isinstance(value, int):
        return str(value)
    raise wrong(name, value, "a string or a whole number")
