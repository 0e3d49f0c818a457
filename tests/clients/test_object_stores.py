"""docs/guides/object-stores.md, where blobs are: each command and document of it, tried.

Only names, addresses and ports are others than on the page. Commands that manage accounts and
buckets of a cloud are read by the cloud's own client, which then finds that it has not logged in.
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
from tests.support.containers import ACCOUNT, Azurite
from tests.support.google_storage import GoogleStorage
from tests.support.object_servers import ObjectServer
from tests.support.require import find_command, require_command
from tests.support.server import UllageServer

pytestmark = [pytest.mark.client, pytest.mark.slow]

_PAGE = (Path(__file__).parents[2] / "docs/guides/object-stores.md").read_text("utf-8")
_BLOCK = re.compile(r"^```json\n(.*?)^```\n", re.DOTALL | re.MULTILINE)


def section(title: str) -> str:
    """What the page says below a heading."""
    return _PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]


def commands_of(text: str) -> list[str]:
    return re.findall(r"^    (\S.*)$", _BLOCK.sub("", text), re.MULTILINE)


PAGE = section("In a bucket of S3")
AZURE = section("In a container of Azure")
GOOGLE = section("In a bucket of Google Cloud Storage")
POLICY, LIFECYCLE = (json.loads(text) for text in _BLOCK.findall(PAGE))
COMMANDS = commands_of(PAGE)
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


def _objects(service: ObjectServer) -> int:
    return sum(not name.endswith("registry-id") for name in service.sizes(BUCKET))


def pushes_pulls_and_deletes(service: ObjectServer, place: str, folder: Path) -> None:
    """A registry there sends pulls to `localhost`, and the bytes of what is deleted go."""
    reached = service.endpoint.replace("127.0.0.1", "localhost")
    storage = ("--storage", f"{place}&public={reached}")
    with UllageServer(folder / "data", *storage, env=service.environment) as server:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            digest = push_blob(client, "app", LAYER)
            answer = client.get(f"/v2/app/blobs/{digest}")
            assert answer.status_code == 307
            assert answer.headers["Location"].startswith(f"{reached}/")
            assert httpx.get(answer.headers["Location"], timeout=60).content == LAYER
            unread = push_blob(client, "app", LAYER[1:])
            assert client.delete(f"/v2/app/blobs/{unread}").status_code == 202
            wait_until(lambda: _objects(service) == 1, "the bytes to go")
        server.assert_no_500()


# --- Azure ----------------------------------------------------------------------------------------


def cloud_client(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """A command of a cloud's own client, which knows no account."""
    environment = {
        **os.environ,
        "AZURE_CONFIG_DIR": str(folder / "azure"),
        "AZURE_CORE_COLLECT_TELEMETRY": "no",
        "CLOUDSDK_CONFIG": str(folder / "gcloud"),
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "1",
    }
    return subprocess.run(words, env=environment, cwd=folder, capture_output=True, text=True)


def test_a_container_is_made_and_used_as_the_page_says(tmp_path: Path) -> None:
    with Azurite(tmp_path / "containers") as service:
        (made,) = [line for line in commands_of(AZURE) if line.startswith("az storage container")]
        words = shlex.split(made.replace("registryblobs", ACCOUNT).replace(" login", " key"))
        words += ["--account-key", service.key, "--blob-endpoint", service.endpoint]
        created = cloud_client([require_command("az"), *words[1:]], tmp_path)
        assert created.returncode == 0, created.stderr
        (place,) = [shlex.split(line)[-1] for line in commands_of(AZURE) if "endpoint=" in line]
        place = place.replace("https://blobs.internal:10000/registryblobs", service.endpoint)
        pushes_pulls_and_deletes(service, place.replace("registryblobs", ACCOUNT), tmp_path)


def test_az_reads_what_the_page_says_about_accounts(tmp_path: Path) -> None:
    lines = [line for line in commands_of(AZURE) if line.startswith("az storage account")]
    for line in lines:
        done = cloud_client([require_command("az"), *shlex.split(line)[1:]], tmp_path)
        assert "Please run 'az login'" in done.stderr, line
    assert len(lines) == 2


# --- Google Cloud Storage -------------------------------------------------------------------------


def test_a_bucket_of_google_is_used_as_the_page_says(tmp_path: Path) -> None:
    with S3Server(tmp_path / "buckets") as upstream, GoogleStorage(upstream) as service:
        service.make_bucket(BUCKET)
        (line,) = [line for line in commands_of(GOOGLE) if line.startswith("ullage serve")]
        assert [name in GOOGLE for name in service.environment] == [True, True]
        place = f"{shlex.split(line)[-1]}?endpoint={service.endpoint}"
        pushes_pulls_and_deletes(service, place, tmp_path)


def test_gcloud_reads_what_the_page_says_about_buckets(tmp_path: Path) -> None:
    gcloud = find_command("gcloud")
    if gcloud is None:
        pytest.skip("gcloud is not installed, and comes from Google only")
    (rule,) = _BLOCK.findall(GOOGLE)
    (tmp_path / "lifecycle.json").write_text(rule)
    lines = [line for line in commands_of(GOOGLE) if line.startswith("gcloud ")]
    for line in lines:
        done = cloud_client([gcloud, *shlex.split(line)[1:]], tmp_path)
        assert "do not currently have an active account" in done.stderr, line
    assert len(lines) == 6


def test_every_command_of_the_page_is_tried() -> None:
    tried = ("aws ", "curl ", "az ", "gcloud ", "ullage serve --storage gs:")
    left = [
        line
        for line in COMMANDS + commands_of(AZURE) + commands_of(GOOGLE)
        if not line.startswith(tried) and "endpoint=" not in line
    ]
    # They need a package host, the clouds themselves, and keys.
    assert left == [
        "pip install 'ullage[cloud]'",
        "ullage serve --storage s3://registry-blobs/main",
        "pip install 'ullage[cloud]'",
        "ullage serve --storage 'az://registry-blobs/main?account=registryblobs'",
        "pip install 'ullage[cloud]'",
        "export GCS_HMAC_ACCESS_ID=… GCS_HMAC_SECRET=…",
    ]
