"""SQL of the registry: what there is in it, what refers to what, what may be reclaimed.

A module's functions take a transaction first, and are plain questions and changes: what is allowed,
and in which order things happen, is decided by their callers.
"""
