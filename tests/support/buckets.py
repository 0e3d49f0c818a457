"""A real S3 server with empty buckets: versitygw on a folder, else moto.

versitygw is looked for in the cache folder of `.ci/run` and on the PATH. It checks what moto does
not: checksums, the ends of signed URLs, the size of parts.
"""

import subprocess
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.support.object_servers import ObjectServer, cached
from tests.support.require import clients_required, find_command, unavailable

# Of the server itself; an environment of others does not reach it.
ACCESS_KEY, SECRET_KEY = "ullage", "ullagesecret"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}


def require_s3() -> str:
    """The command of an S3 server; the test is skipped, or fails, where one cannot be used."""
    if find_spec("boto3") is None:
        unavailable("boto3 is not installed (pip install 'ullage[cloud]')")
    found = cached("bin", "versitygw") or find_command("versitygw")
    if found is None and clients_required():
        # moto checks less: with it in its place, tests would be skipped that are to fail.
        unavailable("versitygw is not installed")
    found = found or find_command("moto_server")
    if found is None:
        unavailable("neither versitygw nor moto_server is installed")
    return found


class S3Server(ObjectServer):
    """An S3 server; `arguments` are more of versitygw's own, `environment` is for it alone."""

    small_pieces: Mapping[str, str] = {"part": "5MiB"}

    def __init__(
        self, folder: Path, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self.command = require_s3()
        super().__init__(folder, CREDENTIALS)
        self._arguments = arguments
        self._own_environment = dict(environment or {})
        self._client: Any = None
        self.endpoint = f"http://127.0.0.1:{self.port}"

    @property
    def strict(self) -> bool:
        """Whether it checks what moto does not."""
        return Path(self.command).name == "versitygw"

    def command_line(self) -> list[str]:
        if not self.strict:
            return [self.command, "-H", "127.0.0.1", "-p", str(self.port)]
        where = ["--port", f"127.0.0.1:{self.port}", "--quiet", "--keep-alive", *self._arguments]
        return [self.command, *where, "posix", str(self.folder)]

    def own_environment(self) -> dict[str, str]:
        root = {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY}
        return root | self._own_environment

    def make_bucket(self, name: str) -> None:
        self.client().create_bucket(Bucket=name)

    def url(self, bucket: str, prefix: str = "", **options: str) -> str:
        query = urlencode({"endpoint": self.endpoint, **options})
        return f"s3://{bucket}/{prefix}?{query}"

    def sizes(self, bucket: str) -> dict[str, int]:
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return {each["Key"]: each["Size"] for page in pages for each in page.get("Contents", ())}

    def unfinished_bytes(self, bucket: str) -> int:
        client, total = self.client(), 0
        for upload in client.list_multipart_uploads(Bucket=bucket).get("Uploads", ()):
            where = {"Key": upload["Key"], "UploadId": upload["UploadId"]}
            # What goes meanwhile has no bytes.
            with suppress(client.exceptions.NoSuchUpload):
                parts = client.list_parts(Bucket=bucket, **where)
                total += sum(part["Size"] for part in parts.get("Parts", ()))
        return total

    def remove(self, bucket: str, name: str) -> None:
        self.client().delete_object(Bucket=bucket, Key=name)

    def add_account(self, access: str, secret: str) -> None:
        """An account that may do nothing."""
        admin = ["admin", "-a", ACCESS_KEY, "-s", SECRET_KEY, "-er", self.endpoint, "create-user"]
        account = ["-a", access, "-s", secret, "-r", "user"]
        subprocess.run([self.command, *admin, *account], check=True, capture_output=True)

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
