"""SQLite: one process owns the file, and one thread of it writes (`writer.py`).

Readers are query-only connections, one per thread. Because only the writer commits, what was read
stays true until its next commit, and need not be read again before.
"""
