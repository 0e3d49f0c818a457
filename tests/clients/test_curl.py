"""curl, against a real server process: the specification spelled out, request by request."""

import hashlib
import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.clients.programs import RUN_SECONDS, client_environment, payload
from tests.clients.view import OCI_MANIFEST, View
from tests.support.require import require_command
from tests.support.server import UllageServer

pytestmark = pytest.mark.client

MIB = 2**20
GIB = 2**30
CHUNK_BYTES = 256 * MIB
_HELD = re.compile(r"0-([0-9]+)")


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]  # by name in lower case
    body: bytes


class BigFile(NamedTuple):
    path: Path
    size: int
    digest: str


class Curl:
    """curl without the caller's settings, talking to one registry."""

    def __init__(self, url: str, folder: Path) -> None:
        self._program = require_command("curl")
        self._url = url
        self._folder = folder
        self._env = client_environment(folder)

    def __call__(self, path: str, *options: str | Path, stdin: int = subprocess.DEVNULL) -> Answer:
        """One request, which must get an answer, whatever its status."""
        body, headers = self._folder / "body", self._folder / "headers"
        body.write_bytes(b"")
        command = self._command(path, "--output", body, "--dump-header", headers, *options)
        done = subprocess.run(
            command, env=self._env, stdin=stdin, capture_output=True, timeout=RUN_SECONDS
        )
        assert done.returncode == 0, done.stderr.decode()
        return _answer(headers.read_text(), body.read_bytes())

    def start(self, path: str, *options: str | Path) -> subprocess.Popen[bytes]:
        """A request that the test will not let come to its end."""
        return subprocess.Popen(
            self._command(path, *options),
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def send(self, path: str, big: BigFile, start: int, stop: int, *options: str) -> Answer:
        """Upload the bytes [start, stop) of a file through a pipe."""
        with big.path.open("rb", buffering=0) as source:
            source.seek(start)
            head = subprocess.Popen(
                [require_command("head"), f"--bytes={stop - start}"],
                stdin=source,
                stdout=subprocess.PIPE,
            )
        assert head.stdout is not None
        try:
            return self(path, "--upload-file", "-", *options, stdin=head.stdout.fileno())
        finally:
            head.stdout.close()
            head.wait()

    def _command(self, path: str, *options: str | Path) -> list[str | Path]:
        # Expect: 100-continue, which curl asks for on its own, is part of what is tried here.
        return [self._program, "--disable", "--silent", "--show-error", *options, self._url + path]


@pytest.fixture
def curl(registry: UllageServer, tmp_path: Path) -> Curl:
    return Curl(registry.url, tmp_path)


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BigFile]:
    """1 GiB in which no two MiB are the same, and the digest of it."""
    path = tmp_path_factory.mktemp("big") / "blob"
    hasher, block = hashlib.sha256(), bytearray(payload("big", MIB))
    with path.open("wb") as file:
        for number in range(GIB // MIB):
            block[:8] = number.to_bytes(8)
            file.write(block)
            hasher.update(block)
    yield BigFile(path, GIB, f"sha256:{hasher.hexdigest()}")
    path.unlink()


def test_a_blob_of_one_gib_in_chunks_resumed_after_a_broken_connection(
    curl: Curl, big: BigFile, registry: UllageServer, view: View, tmp_path: Path
) -> None:
    """distribution-spec, "Pushing a blob in chunks"; its bytes come back with its last image."""
    upload = _start_upload(curl, "app")
    answer = curl.send(upload, big, 0, CHUNK_BYTES, *_chunk(0, CHUNK_BYTES))
    assert (answer.status, _held(answer)) == (202, CHUNK_BYTES)

    _send_and_break_off(curl, registry, upload, big, CHUNK_BYTES)
    held = _wait_for_more(curl, upload, CHUNK_BYTES)
    assert CHUNK_BYTES < held < big.size
    assert registry.disk_bytes() == held

    # Not where the session is: the answer says where that is.
    refused = curl.send(upload, big, 0, MIB, *_chunk(0, MIB))
    assert (refused.status, _held(refused)) == (416, held)

    rest = ("--continue-at", str(held), "--upload-file", big.path)
    answer = curl(upload, *rest, "--request", "PATCH", *_headers(held, big.size))
    assert (answer.status, _held(answer)) == (202, big.size)
    assert curl(f"{upload}?digest={big.digest}", "--request", "PUT").status == 201
    assert registry.disk_bytes() == big.size

    _push_images_and_delete_them(curl, big, view)


def test_a_streamed_upload_and_downloads_by_range(
    curl: Curl, big: BigFile, registry: UllageServer, tmp_path: Path
) -> None:
    """A PATCH with neither length nor range; then all three forms of range (RFC 9110, 14.1)."""
    upload = _start_upload(curl, "app")
    chunked = ("--request", "PATCH", "--header", "Transfer-Encoding: chunked")
    half, end = 3 * MIB, 64 * MIB
    assert _held(curl.send(upload, big, 0, half, *chunked)) == half
    assert _held(curl.send(upload, big, half, end, *chunked)) == end
    with big.path.open("rb") as file:
        data = file.read(end)
    blob = f"/v2/app/blobs/{_digest(data)}"
    assert curl(f"{upload}?digest={_digest(data)}", "--request", "PUT").headers["location"] == blob

    for wanted, expected in {
        "500-1499": data[500:1500],
        f"{end - 10}-": data[-10:],
        "-1000": data[-1000:],
        f"{MIB}-{2 * end}": data[MIB:],
    }.items():
        answer = curl(blob, "--range", wanted)
        assert (answer.status, answer.body == expected) == (206, True)
    assert curl(blob, "--range", f"{end}-").status == 416

    partial = tmp_path / "partial"
    partial.write_bytes(data[: MIB + 1])
    curl_again = ("--continue-at", "-", "--output", partial)
    assert curl.start(blob, *curl_again).wait(RUN_SECONDS) == 0
    assert partial.read_bytes() == data
    assert curl(blob, "--request", "DELETE").status == 202


def _start_upload(curl: Curl, repository: str) -> str:
    """A new session's path."""
    answer = curl(f"/v2/{repository}/blobs/uploads/", "--request", "POST")
    assert answer.status == 202
    return answer.headers["location"]


def _headers(start: int, stop: int) -> tuple[str, ...]:
    # With --continue-at, curl would write "bytes start-end/total"; the specification wants less.
    return "--header", f"Content-Range: {start}-{stop - 1}"


def _chunk(start: int, stop: int) -> tuple[str, ...]:
    length = ("--header", f"Content-Length: {stop - start}", "--header", "Transfer-Encoding:")
    return "--request", "PATCH", *length, *_headers(start, stop)


def _held(answer: Answer) -> int:
    """How many bytes the session holds, by the answer's Range: "0-99" means 100."""
    found = _HELD.fullmatch(answer.headers["range"])
    assert found, answer
    return int(found[1]) + 1


def _send_and_break_off(
    curl: Curl, registry: UllageServer, upload: str, big: BigFile, start: int
) -> None:
    """Send the rest of the file, and kill curl when a good part of it has arrived."""
    rest = ("--continue-at", str(start), "--upload-file", big.path, "--limit-rate", "256M")
    sender = curl.start(upload, *rest, "--request", "PATCH", *_headers(start, big.size))
    try:
        while registry.disk_bytes() < start + 64 * MIB:
            assert sender.poll() is None, f"curl ended with {sender.returncode}"
            time.sleep(0.01)
    finally:
        sender.kill()
        sender.wait()


def _wait_for_more(curl: Curl, upload: str, known: int) -> int:
    """Ask until the server has seen that the connection broke; how much it then holds."""
    deadline = time.monotonic() + 30
    while (held := _held(curl(upload))) == known:
        assert time.monotonic() < deadline, "what arrived is lost"
        time.sleep(0.05)
    return held


def _push_images_and_delete_them(curl: Curl, big: BigFile, view: View) -> None:
    """Two repositories share the big blob: it goes with the second image, not with the first."""
    first = _push_image(curl, "app", big)
    mount = f"/v2/team/other/blobs/uploads/?mount={big.digest}&from=app"
    assert curl(mount, "--request", "POST").status == 201
    second = _push_image(curl, "team/other", big)
    view.assert_disk_holds(first, second)

    def delete(image: str) -> None:
        repository, _, digest = image.partition("@")
        path = f"/v2/{repository}/manifests/{digest}"
        assert curl(path, "--request", "DELETE").status == 202

    gone = view.assert_deletion_frees(first, kept=(second,), delete=delete)
    assert big.digest not in gone
    gone = view.assert_deletion_frees(second, kept=(), delete=delete)
    assert gone[big.digest] == big.size


def _push_image(curl: Curl, repository: str, big: BigFile) -> str:
    """Push a config of its own and a manifest, the layer being there; "repository@digest"."""
    config = json.dumps({"repository": repository}).encode()
    path = f"/v2/{repository}/blobs/uploads/?digest={_digest(config)}"
    assert curl(path, *_body(config, "application/octet-stream")).status == 201
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": [{"mediaType": "x/y", "digest": big.digest, "size": big.size}],
    }
    raw = json.dumps(manifest).encode()
    path = f"/v2/{repository}/manifests/1"
    assert curl(path, "--request", "PUT", *_body(raw, OCI_MANIFEST)).status == 201
    return f"{repository}@{_digest(raw)}"


def _body(data: bytes, media_type: str) -> tuple[str, ...]:
    return "--data-binary", data.decode(), "--header", f"Content-Type: {media_type}"


def _descriptor(media_type: str, data: bytes) -> dict[str, str | int]:
    return {"mediaType": media_type, "digest": _digest(data), "size": len(data)}


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _answer(headers: str, body: bytes) -> Answer:
    """The last answer in a dump of headers; before it there may be a "100 Continue"."""
    lines = headers.replace("\r", "").strip().rpartition("\n\n")[2].splitlines()
    fields = (line.partition(":") for line in lines[1:])
    status = int(lines[0].split()[1])
    return Answer(status, {name.lower(): value.strip() for name, _, value in fields}, body)
