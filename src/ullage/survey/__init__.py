"""Another registry's storage, looked at and never touched: what is there, what can go."""
