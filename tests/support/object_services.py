"""Every kind of service that blobs can be in, as a real server: started when a test asks for it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.buckets import S3Server
from tests.support.containers import Azurite
from tests.support.google_storage import GoogleStorage
from tests.support.object_servers import ObjectServer

# By the schemes of their URLs.
SERVICES = ("s3", "gs", "az")


class ObjectServices:
    """Each service once, for as long as the `with` block of `open_services` lasts."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._running: dict[str, ObjectServer] = {}

    def __getitem__(self, scheme: str) -> ObjectServer:
        if scheme not in self._running:
            self._running[scheme] = self._stack.enter_context(self._make(scheme))
        return self._running[scheme]

    def _make(self, scheme: str) -> ObjectServer:
        if scheme == "az":
            return Azurite(self._folder / "containers")
        if scheme == "s3":
            return S3Server(self._folder / "buckets")
        upstream = self["s3"]
        assert isinstance(upstream, S3Server)
        return GoogleStorage(upstream)


@contextmanager
def open_services(folder: Path) -> Iterator[ObjectServices]:
    with ExitStack() as stack:
        yield ObjectServices(folder, stack)
