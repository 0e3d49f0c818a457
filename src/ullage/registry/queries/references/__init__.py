"""What holds what: the questions that decide, before a deletion, what it takes and what it frees.

Every answer costs what it is about, never what the registry holds: indexes lead everywhere.
"""
