"""Use cases that no request reaches, each in a process of its own that a failpoint can kill.

`drive <what> --data <folder> [--database <url>] [<repository>]`, run by tests/crash/forkserver.py.
"""

import argparse
import sys
from dataclasses import replace

from ullage.config.loading import load_settings
from ullage.deletion import delete
from ullage.deletion.reconcile import reconcile
from ullage.oci.reference import parse_repository_name
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.identity import begin_batch
from ullage.wiring.opening import open_registry

ANONYMOUS = Caller(subject="", address="127.0.0.1", agent="drive")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["delete-repository", "leave-unknown", "reconcile"])
    parser.add_argument("--data")
    parser.add_argument("--database")
    parser.add_argument("repository", nargs="?")
    asked = parser.parse_intermixed_args(sys.argv[1:])
    settings = load_settings({"data": asked.data, "database": asked.database}, {})
    with open_registry(settings) as (registry, _):
        if asked.what == "reconcile":
            # However large its share of a small store.
            limits = replace(registry.limits, max_unknown_percent=100)
            reconcile(replace(registry, limits=limits), registry.blobs.list())
        elif asked.what == "leave-unknown":
            # As a defect would: under a key that the database gave out and names nowhere.
            key, *_ = begin_batch(registry, lambda tx, keys: None)
            registry.blobs.begin(key).close()
        else:
            _delete_repository(registry, asked.repository)


def _delete_repository(registry: Registry, name: str) -> None:
    delete.delete_repository(registry, parse_repository_name(name), ANONYMOUS)
