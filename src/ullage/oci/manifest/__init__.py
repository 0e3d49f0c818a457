"""Manifests: what a pushed document says it needs.

What is read here decides what a deletion keeps, and every client will read the same bytes with a
parser of its own. So a document that could be taken for two things is refused (CVE-2021-41190), and
what is accepted is stored and served as exactly the type that was checked here.

Sources: OCI image-spec 1.1 (descriptor.md, manifest.md, image-index.md, annotations.md), the
artifact manifest of its release candidate 1.1.0-rc2, Docker's image manifest version 2, schema 2.
"""
