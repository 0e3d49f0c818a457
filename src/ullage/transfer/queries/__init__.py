"""SQL about what is to be copied, and the moment in which a registry moves."""
