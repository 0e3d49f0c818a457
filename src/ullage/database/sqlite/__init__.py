"""The SQLite engine: one process owns the file (`database.py`), one thread writes (`writer.py`)."""
