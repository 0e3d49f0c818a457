"""The tables: what Ullage knows about repositories, manifests, tags and blobs.

The foreign keys carry the deletion protocol (deletion.md section 3.1): a manifest's reference to a
blob points to the repository's link, the link points to the blob. So the database itself refuses to
drop a link that a manifest needs, or a blob that a repository needs. Deleting the `blobs` row *is*
the condemnation of its bytes; the tombstone written in the same transaction says where they are.

A new database gets these tables, and `migrations/` makes older ones like it;
tests/database/test_migrations.py proves that both agree.
Times are integer microseconds since the epoch, UTC. Sizes are bytes.
"""
