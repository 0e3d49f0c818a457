"""The command line: `ullage …`. Commands that need the services import them when they run."""

from __future__ import annotations

import sys


def main() -> None:
    """The entry point."""
    from ullage.cli.azure_style import joined_rights
    from ullage.cli.commands import app

    sys.exit(app(joined_rights(sys.argv[1:]), standalone_mode=True))
