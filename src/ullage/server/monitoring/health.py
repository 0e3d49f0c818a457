"""`/livez`, `/readyz` and `/startupz`: whether a registry lives, and whether it can do its work.

Named and spelled as Kubernetes does (https://kubernetes.io/docs/reference/using-api/health-checks).
They are in no request log, and in no figure about requests.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from starlette.responses import Response

from ullage.registry.context import Registry
from ullage.registry.fitness import CHECKS
from ullage.server.http.responses import FixedResponse

log = logging.getLogger(__name__)

# A part that says nothing for so long is not fit for work.
CHECK_SECONDS = 2.0
Report = Mapping[str, str | None]


class Health:
    """What a registry's parts say of themselves, and whether the server is about to stop.

    Used from one event loop. Checks have threads of their own, one each: a probe waits for no
    request's work, and one that hangs keeps no second one.
    """

    def __init__(self, checks: Mapping[str, Callable[[], str | None]]) -> None:
        self._checks = checks
        self._running: dict[str, asyncio.Future[str | None]] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._stopping = False

    @classmethod
    def of(cls, registry: Registry) -> Health:
        return cls({name: partial(check, registry) for name, check in CHECKS.items()})

    def stop(self) -> None:
        """The server is about to stop: from now on it is not fit for work."""
        self._stopping = True

    async def report(self) -> Report:
        """Each part by name, and why it is not fit; None if it is."""
        begun = {name: self._begun(name) for name in self._checks}
        await asyncio.wait(begun.values(), timeout=CHECK_SECONDS)
        found = {name: _fault(name, check) for name, check in begun.items()}
        return {**found, "shutdown": "the server is stopping" if self._stopping else None}

    def _begun(self, name: str) -> asyncio.Future[str | None]:
        """The check that is under way, or a new one."""
        running = self._running.get(name)
        if running is None or running.done():
            if self._pool is None:
                self._pool = ThreadPoolExecutor(len(self._checks), "ullage-health")
            loop = asyncio.get_running_loop()
            running = loop.run_in_executor(self._pool, self._checks[name])
            self._running[name] = running
        return running


def _fault(name: str, check: asyncio.Future[str | None]) -> str | None:
    if not check.done():
        return f"no answer within {CHECK_SECONDS:g} s"
    error = check.exception()
    if error is None:
        return check.result()
    log.error("the check of the %s failed", name, exc_info=error)
    return "the check itself failed; the registry's log has more"


def alive() -> Response:
    """The event loop answers; nothing else is asked."""
    return _text(200, "ok")


def readiness(report: Report, *, verbose: bool) -> Response:
    """200 if every part is fit, else 503; `verbose` says which are not, and why."""
    fit = not any(report.values())
    status = 200 if fit else 503
    if not verbose:
        return _text(status, "ok" if fit else "not ready")
    lines = [
        f"[+]{name} ok" if fault is None else f"[-]{name} failed: {fault}"
        for name, fault in report.items()
    ]
    return _text(status, "\n".join([*lines, f"readyz check {'passed' if fit else 'failed'}"]))


def _text(status: int, text: str) -> Response:
    headers = {
        "Content-Type": "text/plain; charset=utf-8",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    return FixedResponse(status, headers, f"{text}\n".encode())
