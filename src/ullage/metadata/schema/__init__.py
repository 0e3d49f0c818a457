"""The tables: what Ullage knows about repositories, manifests, tags and blobs.

The foreign keys carry the deletion protocol (docs/design/deletion.md): a manifest's reference to a
blob points to the repository's link, the link points to the blob. So the database itself refuses to
drop a link that a manifest needs, or a blob that a repository needs. Deleting the `blobs` row *is*
the condemnation of its bytes; the tombstone written in the same transaction says where they are.

A new database gets these tables, and `migrations/` makes older ones like it;
tests/metadata/test_migrations.py proves that both agree.
Times are integer microseconds since the epoch, UTC. Sizes are bytes.
"""

from ullage.metadata.schema.accounts import (
    audit,
    registry_facts,
    scope_maps,
    signing_keys,
    token_passwords,
    tokens,
    users,
)
from ullage.metadata.schema.base import Id, Moment, locked, metadata
from ullage.metadata.schema.cleaning import (
    holds,
    job_items,
    jobs,
    manifest_pulls,
    plans,
    policies,
    pull_history,
    tag_pulls,
)
from ullage.metadata.schema.content import (
    blobs,
    manifest_blobs,
    manifest_children,
    manifests,
    repo_blobs,
    repositories,
    tags,
)
from ullage.metadata.schema.space import (
    counters,
    finished_uploads,
    lease_memory,
    leases,
    reserved_keys,
    reviews,
    tombstones,
    uploads,
)
from ullage.metadata.schema.undo import deleted_tags, kept_repositories, operations

__all__ = [
    "Id",
    "Moment",
    "audit",
    "blobs",
    "counters",
    "deleted_tags",
    "finished_uploads",
    "holds",
    "job_items",
    "jobs",
    "kept_repositories",
    "lease_memory",
    "leases",
    "locked",
    "manifest_blobs",
    "manifest_children",
    "manifest_pulls",
    "manifests",
    "metadata",
    "operations",
    "plans",
    "policies",
    "pull_history",
    "registry_facts",
    "repo_blobs",
    "repositories",
    "reserved_keys",
    "reviews",
    "scope_maps",
    "signing_keys",
    "tag_pulls",
    "tags",
    "token_passwords",
    "tokens",
    "tombstones",
    "uploads",
    "users",
]
