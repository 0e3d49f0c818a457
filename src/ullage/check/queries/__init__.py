"""Everything there is, page by page, each row with what it has to agree with: for `ullage check`.

What one call returns belongs to one moment if the transaction is a snapshot. Rows of deleted
repositories are left out: they are being erased; those of repositories that are kept, hidden, are
not. Nothing here decides what is wrong; check/check.py does.
"""
