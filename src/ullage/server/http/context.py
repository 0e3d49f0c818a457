"""What handlers are given beside the request, and what they read from it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from ullage.authorization import Principal
from ullage.oci.reference import RepositoryName, parse_repository_name
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.server.http.authentication import Guard
from ullage.server.http.blob_response import ReadyMemory
from ullage.server.http.bodies import Bodies
from ullage.server.http.parameters import Query
from ullage.server.http.redirects import Redirects
from ullage.server.http.request import Request
from ullage.server.http.send_file import SendFile
from ullage.server.http.shared_reads import SharedReads
from ullage.server.http.single_flight import SingleFlight
from ullage.server.http.threads import Threads
from ullage.server.http.write_batches import WriteBatches
from ullage.server.monitoring.health import Health
from ullage.server.monitoring.sources import Sources

# A User-Agent is only kept to tell clients apart.
MAX_AGENT = 200


@dataclass(frozen=True, slots=True)
class Context:
    """What every handler needs besides the request."""

    registry: Registry
    threads: Threads
    reads: SharedReads
    write_batches: WriteBatches
    bodies: Bodies
    guard: Guard
    health: Health
    # Of the figures at /metrics.
    sources: Sources
    # Where nginx may send the files of blobs.
    send_file: SendFile | None = None
    # Which pulls are sent to the store.
    redirects: Redirects | None = None
    # Held by the one check that goes on.
    checking: asyncio.Lock = field(default_factory=asyncio.Lock)
    counting_bill: SingleFlight = field(default_factory=SingleFlight)
    ready: ReadyMemory = field(default_factory=ReadyMemory)

    def name(self, text: str) -> RepositoryName:
        return parse_repository_name(text, self.registry.limits.max_name_length)


def caller_of(request: Request) -> Caller:
    """The caller, as use cases see it; App has put the principal into the scope."""
    client = request.scope.get("client")
    agent = request.fields.first.get(b"user-agent", b"")[:MAX_AGENT].decode("latin-1")
    return Caller(
        subject=principal_of(request).subject,
        address=client[0] if client else "",
        agent=agent,
        request_id=request.scope["ullage.request_id"],
    )


def principal_of(request: Request) -> Principal:
    principal: Principal = request.scope["ullage.principal"]
    return principal


def query_of(request: Request) -> Query:
    return Query(request.scope["query_string"])
