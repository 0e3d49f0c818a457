"""How older tables become today's: Alembic's environment; `versions/` has one file per change."""
