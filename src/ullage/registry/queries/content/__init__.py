"""Repositories, manifests, tags and links: what there is in the registry.

Every function takes the transaction first. On PostgreSQL a transaction that changes a
repository locks its row first, then the blobs' rows in digest order, then the counters: one order
for all, against deadlocks. On SQLite there is one writer, and the same statements carry no lock.
"""
