"""One file per change of the tables, from `b0001_baseline.py` on; each names the one before it."""
