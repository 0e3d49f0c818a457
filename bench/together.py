"""Several clients at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence


def together(works: Sequence[Callable[[], None]]) -> float:
    """Seconds until all of them, started at once in threads, are done. Raises what one raised."""
    failures: list[BaseException] = []

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again below
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return time.perf_counter() - began
