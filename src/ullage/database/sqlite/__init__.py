"""SQLite: one process owns the file, and one thread of it writes (`writer.py`).

Readers are query-only connections, one per thread. Because nobody else commits, what was read holds
until the writer's next commit, and need not be read again before.
"""
