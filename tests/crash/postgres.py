"""A PostgreSQL server made to be killed."""

import signal

from tests.support.postgres import STOP_SECONDS, PostgresServer


class CrashingPostgres(PostgresServer):
    """`crash` is `pg_ctl stop -m immediate`: no checkpoint, and the next start recovers."""

    def crash(self) -> None:
        """Nothing of it is left when this returns; unlogged tables will be empty."""
        assert self._process is not None, "not started"
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(STOP_SECONDS)

    def restart(self) -> None:
        """On the same port and data; answers when this returns."""
        assert self._start(), self.log
