"""Operations: deletions that can be taken back, and the hidden repositories that keep what went.

What was deleted softly lives on in a repository without a name, one for each repository that the
operation was about. A tag whose manifest stayed is only remembered. docs/design/deletion.md has the
reasons.
"""

from ullage.metadata.operations.moving import (
    Clash,
    clashes,
    drop_tags,
    rows_of,
    some_roots,
    tags_there,
)
from ullage.metadata.operations.records import (
    Operation,
    begin,
    end_if_empty,
    find,
    first_begun_before,
    newest,
    shift,
)
from ullage.metadata.operations.repositories import (
    Kept,
    hidden_repository,
    hide_repository,
    kept_by,
    lock_kept,
    show_repository,
    unkeep,
)
from ullage.metadata.operations.tags import (
    RememberedTag,
    count_remembered,
    forget_all_tags,
    forget_tags,
    put_remembered,
    remember_tags,
    remembered,
)

__all__ = [
    "Clash",
    "Kept",
    "Operation",
    "RememberedTag",
    "begin",
    "clashes",
    "count_remembered",
    "drop_tags",
    "end_if_empty",
    "find",
    "first_begun_before",
    "forget_all_tags",
    "forget_tags",
    "hidden_repository",
    "hide_repository",
    "kept_by",
    "lock_kept",
    "newest",
    "put_remembered",
    "remember_tags",
    "remembered",
    "rows_of",
    "shift",
    "show_repository",
    "some_roots",
    "tags_there",
    "unkeep",
]
