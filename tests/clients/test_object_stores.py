"""docs/guides/object-stores.md, "In a bucket of S3": each command and document of it, tried.

Only names, addresses and ports are others than on the page.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.pushing import push_blob
from tests.support.actors import wait_until
from tests.support.buckets import CREDENTIALS, S3Server
from tests.support.require import require_command
from tests.support.server import UllageServer

pytestmark = [pytest.mark.client, pytest.mark.slow]

_WHOLE = (Path(__file__).parents[2] / "docs/guides/object-stores.md").read_text("utf-8")
PAGE = _WHOLE.partition("## In a bucket of S3")[2].partition("## Moving from files")[0]
_BLOCK = re.compile(r"^```json\n(.*?)^```\n", re.DOTALL | re.MULTILINE)
POLICY, LIFECYCLE = (json.loads(text) for text in _BLOCK.findall(PAGE))
COMMANDS = re.findall(r"^    (\S.*)$", _BLOCK.sub("", PAGE), re.MULTILINE)
BUCKET = "registry-blobs"
LAYER = secrets.token_bytes(20 * 2**20)
# Of the account that has the rights of the page and no others.
LIMITED = {"AWS_ACCESS_KEY_ID": "limited", "AWS_SECRET_ACCESS_KEY": "limitedsecret"}


def command(start: str) -> list[str]:
    """The page's one command that starts so, in words."""
    (found,) = [line for line in COMMANDS if line.startswith(start)]
    return shlex.split(found)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[S3Server]:
    (tmp_path / "accounts").mkdir()
    with S3Server(tmp_path / "buckets", "--iam-dir", str(tmp_path / "accounts")) as server:
        if not server.strict:
            pytest.skip("moto has no rights")
        yield server


def aws(service: S3Server, words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """A command of the page, at the test's own service."""
    environment = {**os.environ, **CREDENTIALS, "AWS_DEFAULT_REGION": "us-east-1", "AWS_PAGER": ""}
    words = [require_command("aws"), *words[1:], "--endpoint-url", service.endpoint]
    return subprocess.run(words, env=environment, cwd=folder, capture_output=True, text=True)


def allow(service: S3Server) -> None:
    """Make an account that has the rights of the page; a bucket's policy says who it is about."""
    words = [service.command, "admin", "-a", CREDENTIALS["AWS_ACCESS_KEY_ID"]]
    words += ["-s", CREDENTIALS["AWS_SECRET_ACCESS_KEY"], "-er", service.endpoint, "create-user"]
    words += ["-a", LIMITED["AWS_ACCESS_KEY_ID"], "-s", LIMITED["AWS_SECRET_ACCESS_KEY"]]
    subprocess.run([*words, "-r", "user"], check=True, capture_output=True)
    policy: dict[str, Any] = json.loads(json.dumps(POLICY))
    for statement in policy["Statement"]:
        statement["Principal"] = {"AWS": [LIMITED["AWS_ACCESS_KEY_ID"]]}
    service.client().put_bucket_policy(Bucket=BUCKET, Policy=json.dumps(policy))


def test_what_the_page_says_works(service: S3Server, tmp_path: Path) -> None:
    """Its rights are enough, and its documents are what the client sends and the service reads."""
    created = aws(service, command("aws s3api create-bucket"), tmp_path)
    assert created.returncode == 0, created.stderr
    versions = aws(service, command("aws s3api get-bucket-versioning"), tmp_path)
    assert (versions.returncode, versions.stdout) == (0, ""), versions.stderr
    (tmp_path / "lifecycle.json").write_text(json.dumps(LIFECYCLE))
    rule = aws(service, command("aws s3api put-bucket-lifecycle"), tmp_path)
    # As the page says of versitygw: the client has read and sent it, and the service has none.
    assert "NotImplemented" in rule.stderr
    allow(service)
    place = command("ullage serve --storage 's3://registry-blobs/main?endpoint")[-1]
    public = re.findall(r"`(&public=[^`]+)`", PAGE)[0]
    place = (place + public).replace("https://s3.internal:9000", service.endpoint)
    place = place.replace("https://s3.example.com", f"http://localhost:{service.port}")
    with UllageServer(tmp_path / "data", "--storage", place, env=LIMITED) as server:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            digest = push_blob(client, "app", LAYER)
            words = [word.replace("sha256:…", digest) for word in command("curl ")]
            words = [word.replace("http://127.0.0.1:5000", server.url) for word in words]
            told = subprocess.run(words, check=True, capture_output=True, text=True).stdout
            status, url = told.split()
            assert (status, url.startswith(f"http://localhost:{service.port}/")) == ("307", True)
            assert httpx.get(url, timeout=60).content == LAYER
            unread = push_blob(client, "app", LAYER[1:])
            assert client.delete(f"/v2/app/blobs/{unread}").status_code == 202
            began = time.monotonic()
            wait_until(lambda: _objects(service) == 1, "the bytes to go")
            assert time.monotonic() - began < 5
        server.assert_no_500()


def _objects(service: S3Server) -> int:
    found = service.client().list_objects_v2(Bucket=BUCKET).get("Contents", ())
    return sum(not each["Key"].endswith("registry-id") for each in found)


def test_every_command_of_the_page_is_tried() -> None:
    tried = ("aws ", "curl ", "ullage serve --storage 's3://registry-blobs/main?endpoint")
    # One needs a package host, the other one AWS itself.
    left = [line for line in COMMANDS if not line.startswith(tried)]
    assert left == [
        "pip install 'ullage[cloud]'",
        "ullage serve --storage s3://registry-blobs/main",
    ]
