"""The command line: `ullage …`. Commands that need the services import them when they run."""

from __future__ import annotations

import sys


def main() -> None:
    """The entry point."""
    from ullage.cli.commands import app

    sys.exit(app(standalone_mode=True))
