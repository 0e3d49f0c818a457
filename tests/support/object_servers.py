"""A real server of objects on a free port of 127.0.0.1: what all of them have in common."""

import itertools
import os
import secrets
import socket
import subprocess
import time
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Self

START_SECONDS = 60
_numbers = itertools.count()


def cached(*path: str) -> str | None:
    """What `.ci/run` has installed in its cache folder, if it is there."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    found = caches.joinpath("ullage-ci", *path)
    return str(found) if found.exists() else None


class ObjectServer:
    """Started and killed by the `with` block. `folder` is for what it stores."""

    # Where it is reached.
    endpoint: str
    # Options of a URL with which an upload of 12 MB is of several pieces.
    small_pieces: Mapping[str, str] = {}

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        """`environment` has what a registry needs to ask it: credentials."""
        self.folder = folder
        self.environment = dict(environment)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        # The authority of its certificate, if it has one of its own.
        self.trusted: str | None = None

    @abstractmethod
    def command_line(self) -> list[str]:
        """The program and its arguments."""

    @abstractmethod
    def own_environment(self) -> dict[str, str]:
        """Variables that only the server gets."""

    @abstractmethod
    def make_bucket(self, name: str) -> None:
        """Make an empty bucket, which Azure calls a container."""

    @abstractmethod
    def url(self, bucket: str, prefix: str = "", **options: str) -> str:
        """What `--storage` is given for a bucket of it."""

    @abstractmethod
    def sizes(self, bucket: str) -> dict[str, int]:
        """The bytes of each object, by its full name; unfinished uploads are none."""

    @abstractmethod
    def unfinished_bytes(self, bucket: str) -> int:
        """The bytes of all uploads that no object was made of."""

    @abstractmethod
    def remove(self, bucket: str, name: str) -> None:
        """Delete an object behind the registry's back."""

    def fresh_bucket(self) -> str:
        """The name of an empty bucket that no other test uses."""
        name = f"books-{next(_numbers)}-{secrets.token_hex(3)}"
        self.make_bucket(name)
        return name

    def stored_bytes(self, bucket: str, *, beside: frozenset[str] = frozenset()) -> int:
        """All bytes in a bucket, with those of unfinished uploads, but for `beside`."""
        found = self.sizes(bucket)
        objects = sum(size for name, size in found.items() if name not in beside)
        return objects + self.unfinished_bytes(bucket)

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder.parent / f"{self.folder.name}.log").open("wb") as log:
            self._process = subprocess.Popen(
                self.command_line(),
                env={**os.environ, **self.own_environment()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def _wait_until_it_answers(self) -> None:
        name = Path(self.command_line()[0]).name
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert self._process.poll() is None, f"{name} ended"
                assert time.monotonic() < deadline, f"{name} does not answer"
                time.sleep(0.02)
