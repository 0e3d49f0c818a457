"""What refers to what: questions that decide, before a deletion, what it takes and what it frees.

Every answer costs what it is about, never what there is in the registry: indexes lead everywhere.
"""
