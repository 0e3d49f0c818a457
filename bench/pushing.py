"""Pushes a made-up registry to one that runs, as clients do: blobs first, mounts where they can."""

from __future__ import annotations

from bench.connection import Connection
from bench.images import push_blob
from bench.workload import Blob, Generator, Made, Unfinished, Workload


def push(host: str, workload: Workload) -> int:
    """How many manifests that were; `host` ("127.0.0.1:5000") speaks plain HTTP."""
    count = 0
    # Where each blob was pushed first.
    homes: dict[str, str] = {}
    linked: set[tuple[str, str]] = set()
    with Connection(f"http://{host}") as connection:
        for each in Generator(workload).everything():
            if isinstance(each, Unfinished):
                _give_up(connection, each)
                continue
            for blob in each.blobs:
                if (each.repository, blob.digest) not in linked:
                    _give(connection, each.repository, blob, homes.get(blob.digest))
                    linked.add((each.repository, blob.digest))
                    homes.setdefault(blob.digest, each.repository)
            _put(connection, each)
            count += 1
    return count


def _give(connection: Connection, repository: str, blob: Blob, home: str | None) -> None:
    if home is not None:
        query = f"?mount={blob.digest}&from={home}"
        answer = connection.ask("POST", f"/v2/{repository}/blobs/uploads/{query}")
        if answer.status == 201:
            return
    push_blob(connection, repository, blob.data(), blob.digest)


def _put(connection: Connection, made: Made) -> None:
    path = f"/v2/{made.repository}/manifests/{made.tag or made.digest}"
    connection.expect(201, "PUT", path, made.raw, made.media_type)


def _give_up(connection: Connection, push: Unfinished) -> None:
    whole = push.blobs[:-1] if push.in_a_blob else push.blobs
    for blob in whole:
        push_blob(connection, push.repository, blob.data(), blob.digest)
    if push.in_a_blob:
        opened = connection.expect(202, "POST", f"/v2/{push.repository}/blobs/uploads/")
        data = push.blobs[-1].data()
        connection.expect(202, "PATCH", opened.headers["location"], data[: len(data) // 2])
