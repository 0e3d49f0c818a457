"""Leases: promises made to pushers ("you need not upload this") that no manifest redeemed yet.

A grant is one promise to one push: an upload that was acknowledged, a HEAD answered 200 to a client
that may push, a mount. The manifest of that push redeems one grant of its own for each blob. While
a grant runs, the repository's link to the blob is not dropped (deletion.md section 3.2).

Leases guard a decision, not data, so they need not be durable. Where one process owns the database
they live in its memory; on PostgreSQL in an UNLOGGED table. What may have been forgotten after a
crash counts as leased for one lease period.

`lease.py` says what leases do, `memory.py` and `sql.py` keep the grants, and `release_links` asks
them before a link goes.
"""
