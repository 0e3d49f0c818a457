"""OCI Distribution 1.1 and what is newer on the specification's main branch: `/v2/`, in spec order.

Every handler reads: parse, call one service, shape the answer. `ROUTES` is the protocol; the
modules here are the specification's workflows: pull, push, discovery, management.
"""
