"""Bringing a database's tables up to date, with Alembic. `versions/` holds one file per change.

A new database gets today's tables at once. Alembic would make the same, and keep ten megabytes of
memory for as long as the process lives.
"""
