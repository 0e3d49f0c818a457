"""Repositories, manifests, tags and links: what the registry holds.

Every function takes the transaction first. On PostgreSQL whoever changes a repository locks its row
first, then the blobs' rows in digest order, then the counters: one order for everybody, so nobody
waits in a circle. On SQLite there is one writer, and the same statements simply carry no lock.
"""
