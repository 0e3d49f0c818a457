"""The rights that a command asks for, as token scopes spell them (azure.md section 3.1)."""

from __future__ import annotations

CATALOG = "registry:catalog:*"


def scope_of(repository: str, actions: str) -> str:
    """Some actions, comma separated, on one repository; "*" is all of them."""
    return f"repository:{repository}:{actions}"


READ_ALL = scope_of("*", "metadata_read")
REPORT_ALL = scope_of("*", "guard_report")
DELETE_ALL = scope_of("*", "metadata_read,delete")
# Policies are for callers with these rights everywhere.
CHANGE_ALL = scope_of("*", "metadata_read,metadata_write,delete")
