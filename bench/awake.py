"""Keeps processors from falling asleep while single requests are timed.

Between two requests of one client everybody waits, and an idle processor sleeps. On a virtual
machine it may take a millisecond to wake up, several times what a read takes, and sometimes much
less: of the request that says nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# In the class of those who only get what nobody else wants; ends by itself if its parent does.
_SPIN = """\
import os, sys
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
while os.getppid() == int(sys.argv[1]):
    for _ in range(100_000):
        pass
"""


@contextmanager
def awake() -> Iterator[None]:
    """Every processor has something to do, which gives way at once to anything else."""
    command = [sys.executable, "-c", _SPIN, str(os.getpid())]
    spinning = [subprocess.Popen(command) for _ in os.sched_getaffinity(0)]
    try:
        yield
    finally:
        for process in spinning:
            process.terminate()
            process.wait()
