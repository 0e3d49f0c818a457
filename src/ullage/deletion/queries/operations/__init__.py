"""Operations: deletions that can be taken back, and the hidden repositories that keep what went.

What was deleted softly lives on in a repository without a name, one for each repository that the
operation was about. A tag whose manifest stayed is only remembered. deletion.md section 7 has the
reasons.
"""
