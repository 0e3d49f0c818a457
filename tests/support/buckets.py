"""A real S3 server with empty buckets: versitygw on a folder, else moto.

versitygw is looked for in the cache folder of `.ci/run` and on the PATH. It checks what moto does
not: checksums, the ends of signed URLs, the size of parts.
"""

import itertools
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

from tests.support.require import clients_required, find_command, unavailable

START_SECONDS = 60
# Of the server itself; an environment of others does not reach it.
ACCESS_KEY, SECRET_KEY = "ullage", "ullagesecret"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
_numbers = itertools.count()


def require_s3() -> str:
    """The command of an S3 server; the test is skipped, or fails, where one cannot be used."""
    if find_spec("boto3") is None:
        unavailable("boto3 is not installed (pip install 'ullage[cloud]')")
    found = _versitygw()
    if found is None and clients_required():
        # moto checks less: with it in its place, tests would be skipped that are to fail.
        unavailable("versitygw is not installed")
    found = found or find_command("moto_server")
    if found is None:
        unavailable("neither versitygw nor moto_server is installed")
    return found


def _versitygw() -> str | None:
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cached = caches / "ullage-ci" / "bin" / "versitygw"
    return str(cached) if cached.exists() else find_command("versitygw")


class S3Server:
    """An S3 server on a free port of 127.0.0.1; `arguments` are more of versitygw's own."""

    def __init__(
        self, folder: Path, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self.command = require_s3()
        self.folder = folder
        self._arguments = arguments
        self._environment = dict(environment or {})
        self._client: Any = None
        # The authority of its certificate, if it has one of its own.
        self.trusted: str | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.endpoint = f"http://127.0.0.1:{self.port}"

    @property
    def strict(self) -> bool:
        """Whether it checks what moto does not."""
        return Path(self.command).name == "versitygw"

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder.parent / f"{self.folder.name}.log").open("wb") as log:
            self._process = subprocess.Popen(
                self._command_line(),
                env={
                    **os.environ,
                    "ROOT_ACCESS_KEY": ACCESS_KEY,
                    "ROOT_SECRET_KEY": SECRET_KEY,
                    **self._environment,
                },
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

    def fresh_bucket(self) -> str:
        """The name of an empty bucket that no other test uses."""
        name = f"books-{next(_numbers)}-{secrets.token_hex(3)}"
        self.client().create_bucket(Bucket=name)
        return name

    def add_account(self, access: str, secret: str) -> None:
        """An account that may do nothing."""
        admin = ["admin", "-a", ACCESS_KEY, "-s", SECRET_KEY, "-er", self.endpoint, "create-user"]
        account = ["-a", access, "-s", secret, "-r", "user"]
        subprocess.run([self.command, *admin, *account], check=True, capture_output=True)

    def url(self, bucket: str, prefix: str = "", **options: str) -> str:
        """What `--storage` is given for a bucket of it."""
        query = urlencode({"endpoint": self.endpoint, **options})
        return f"s3://{bucket}/{prefix}?{query}"

    def client(self) -> Any:
        """A client of its own, to look behind the store's back."""
        if self._client is None:
            self._client = self._new_client()
        return self._client

    def _new_client(self) -> Any:
        import boto3
        from botocore.config import Config

        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            verify=self.trusted,
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            config=Config(s3={"addressing_style": "path"}),
        )

    def _command_line(self) -> list[str]:
        if not self.strict:
            return [self.command, "-H", "127.0.0.1", "-p", str(self.port)]
        where = ["--port", f"127.0.0.1:{self.port}", "--quiet", "--keep-alive", *self._arguments]
        return [self.command, *where, "posix", str(self.folder)]

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert self._process.poll() is None, "the S3 server ended"
                assert time.monotonic() < deadline, "the S3 server does not answer"
                time.sleep(0.02)


def stored_bytes(server: S3Server, bucket: str, *, beside: frozenset[str] = frozenset()) -> int:
    """All bytes in a bucket: objects and the parts of unfinished uploads, but for `beside`."""
    client, total = server.client(), 0
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        entries = page.get("Contents", ())
        total += sum(each["Size"] for each in entries if each["Key"] not in beside)
    for upload in client.list_multipart_uploads(Bucket=bucket).get("Uploads", ()):
        parts = client.list_parts(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        total += sum(part["Size"] for part in parts.get("Parts", ()))
    return total
