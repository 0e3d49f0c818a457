"""How many connections and threads the process has file descriptors for.

A connection that is accepted can be served: its own descriptor and that of the file that it reads
or writes are there. More connections are answered 503 (overload.py) before they take any.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass

# Open connections at once, idle ones among them.
MAX_CONNECTIONS = 8192
# What the process has open before it serves (30 on Linux), rounded up, and logins that read.
OF_THE_PROCESS = 48
# A reading connection to SQLite: the database and its log.
OF_A_THREAD = 2
# A connection, and a blob or an upload.
OF_A_CONNECTION = 2
# Kept free for those that are told that there is no room.
RESERVED = 4
# The most that the soft limit is raised to: enough for MAX_CONNECTIONS.
_ENOUGH = 32768


@dataclass(frozen=True, slots=True)
class Budget:
    """What fits into the limit of the process."""

    connections: int
    threads: int


def budget(limit: int, threads: int) -> Budget:
    """Of at most `limit` descriptors: so many connections at once, and no more than `threads`."""
    left = limit - OF_THE_PROCESS - RESERVED
    fitting = max(2, min(threads, left // 8))
    connections = (left - fitting * OF_A_THREAD) // OF_A_CONNECTION
    return Budget(max(2, min(MAX_CONNECTIONS, connections)), fitting)


def raised_limit() -> int:
    """The limit on descriptors, raised as far as the operator allows and we have a use for it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return _ENOUGH if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
