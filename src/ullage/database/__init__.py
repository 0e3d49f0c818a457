"""Databases: transactions, statements, tables and migrations, on SQLite and PostgreSQL."""
