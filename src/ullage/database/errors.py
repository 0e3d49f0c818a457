"""What can go wrong with a database, whichever engine it is."""

from __future__ import annotations


class DatabaseFull(Exception):
    """No room left for the database to write."""


class DatabaseBusy(Exception):
    """The database did not answer in time, or could not be reached; trying again may work."""


class DatabaseUnreachable(DatabaseBusy):
    """No connection to the database's server could be made, or the one there was is lost."""


class DatabaseBroken(Exception):
    """The database failed in a way that makes further writing unsafe until a restart."""


class Stopped(Exception):
    """Told to stop before it was done."""


class DatabaseUnusable(Exception):
    """The database cannot be opened. The text tells an operator what to change."""


class DatabaseOutdated(DatabaseUnusable):
    """Its tables are of an older version, and were not to be changed. `version` is theirs."""

    def __init__(self, message: str, version: str) -> None:
        super().__init__(message)
        self.version = version


class DatabaseDamaged(DatabaseUnusable):
    """The engine found its own data malformed. Nothing may be written any more."""


class DatabaseInUse(DatabaseUnusable):
    """Another process owns this SQLite database."""
