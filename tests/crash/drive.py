"""Use cases that no request reaches, each in a process of its own that a failpoint can kill.

`drive <what> --data <folder> [--database <url>] [<repository>]`, run by tests/crash/forkserver.py.
"""

import argparse
import sys

from ullage.config import load_settings
from ullage.deletion import delete
from ullage.deletion.reconcile import reconcile
from ullage.oci.reference import parse_repository_name
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.wiring import open_registry

ANONYMOUS = Caller(subject="", address="127.0.0.1", agent="drive")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["delete-repository", "reconcile"])
    parser.add_argument("--data")
    parser.add_argument("--database")
    parser.add_argument("repository", nargs="?")
    asked = parser.parse_intermixed_args(sys.argv[1:])
    settings = load_settings({"data": asked.data, "database": asked.database}, {})
    with open_registry(settings) as (registry, _):
        if asked.what == "reconcile":
            reconcile(registry, registry.blobs.list())
        else:
            _delete_repository(registry, asked.repository)


def _delete_repository(registry: Registry, name: str) -> None:
    delete.delete_repository(registry, parse_repository_name(name), ANONYMOUS)
