"""distribution-spec, "Push": blobs whole (end-4, end-6), in chunks (end-5, end-13), mounted

(end-11), cancelled (end-14), and what is left of an upload when something goes wrong.
"""

import itertools
import os
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.server.pushing import (
    error_code,
    push_blob,
    push_image,
    refused,
    start_upload,
    wait_for_bytes,
)
from tests.server.raw import Connection
from tests.support.server import UllageServer
from ullage.oci.digest import digest_of

DATA = bytes(range(256)) * 40
# Long enough for the server to write some of it before all of it is there; and short enough not to.
BIG = os.urandom(3 * 1024 * 1024)
SMALL = BIG[:5000]
SHA512 = "sha512:" + "0" * 128


def patch(client: httpx.Client, location: str, data: bytes, covered: str = "") -> httpx.Response:
    headers = {"Content-Range": covered} if covered else {}
    return client.patch(location, content=data, headers=headers)


def put(client: httpx.Client, location: str, digest: str, data: bytes = b"") -> httpx.Response:
    return client.put(location, params={"digest": digest}, content=data)


def assert_created(client: httpx.Client, answer: httpx.Response, name: str, data: bytes) -> None:
    """201 with the blob's place and digest; and there it is."""
    assert answer.status_code == 201, answer.text
    digest = answer.headers["Docker-Content-Digest"]
    assert digest == digest_of(data, digest.partition(":")[0])
    assert answer.headers["Location"] == f"/v2/{name}/blobs/{digest}"
    assert answer.headers["Content-Length"] == "0"
    assert client.get(answer.headers["Location"]).content == data


def assert_session(answer: httpx.Response, status: int, location: str, held: int) -> None:
    """Every answer of an upload session says where it is and what it holds."""
    assert (answer.status_code, answer.content) == (status, b"")
    assert answer.headers["Location"] == location
    assert answer.headers["Range"] == f"0-{max(held - 1, 0)}"
    assert answer.headers["Docker-Upload-UUID"] == location.rpartition("/")[2]


def offset_of(client: httpx.Client, location: str) -> int:
    """How many bytes a session holds (it is known to hold more than one, or none)."""
    last = int(client.get(location).headers["Range"].removeprefix("0-"))
    return last + 1 if last else 0


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def uploads(server: UllageServer) -> set[str]:
    """The keys of all upload sessions on disk."""
    return {path.name for path in (server.data / "uploads").iterdir()}


# --- whole ----------------------------------------------------------------------------------------


def test_a_session_is_opened(client: httpx.Client, name: str) -> None:
    """end-4a; a relative Location survives every proxy and port mapping."""
    answer = client.post(f"/v2/{name}/blobs/uploads/")
    location = answer.headers["Location"]
    assert location.startswith(f"/v2/{name}/blobs/uploads/")
    assert_session(answer, 202, location, held=0)
    assert client.post(f"/v2/{name}/blobs/uploads").status_code == 202


def test_session_names_cannot_be_guessed(client: httpx.Client, name: str) -> None:
    names = {start_upload(client, name).rpartition("/")[2] for _ in range(20)}
    assert len(names) == 20
    assert all(len(one) == 32 and int(one, 16) for one in names)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("data", [DATA, b""], ids=["some", "empty"])
def test_a_blob_is_pushed_by_post_then_put(
    client: httpx.Client, name: str, data: bytes, algorithm: str
) -> None:
    """end-4a and end-6, "Monolithic upload"."""
    answer = put(client, start_upload(client, name), digest_of(data, algorithm), data)
    assert_created(client, answer, name, data)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("data", [DATA, b""], ids=["some", "empty"])
def test_a_blob_is_pushed_by_a_single_post(
    client: httpx.Client, name: str, data: bytes, algorithm: str
) -> None:
    """end-4b, also without a length."""
    parameters = {"digest": digest_of(data, algorithm)}
    for content in (data, iter([data])):
        answer = client.post(f"/v2/{name}/blobs/uploads/", params=parameters, content=content)
        assert_created(client, answer, name, data)


@pytest.mark.parametrize("announced", ["sha256", "sha512"])
@pytest.mark.parametrize("used", ["sha256", "sha512"])
def test_the_digest_algorithm_may_be_announced(
    client: httpx.Client, name: str, announced: str, used: str
) -> None:
    """end-4c; the hint saves a second look at the bytes, and is no more than a hint."""
    opened = client.post(f"/v2/{name}/blobs/uploads/", params={"digest-algorithm": announced})
    assert opened.status_code == 202
    location = opened.headers["Location"]
    assert patch(client, location, DATA[:100]).status_code == 202
    assert_created(client, put(client, location, digest_of(DATA, used), DATA[100:]), name, DATA)


# --- in chunks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("last_with_put", [False, True])
def test_a_blob_is_pushed_in_chunks(client: httpx.Client, name: str, last_with_put: bool) -> None:
    """end-5 and end-13: each answer, and each status, says how much is held."""
    location = start_upload(client, name)
    assert_session(client.get(location), 204, location, held=0)
    cuts = [0, 1, 5000, len(DATA)]
    for start, stop in list(itertools.pairwise(cuts))[: 2 if last_with_put else 3]:
        answer = patch(client, location, DATA[start:stop], f"{start}-{stop - 1}")
        assert_session(answer, 202, location, held=stop)
        assert_session(client.get(location), 204, location, held=stop)
    if last_with_put:
        answer = client.put(
            location,
            params={"digest": digest_of(DATA)},
            content=DATA[5000:],
            headers={"Content-Range": f"5000-{len(DATA) - 1}"},
        )
    else:
        answer = put(client, location, digest_of(DATA))
    assert_created(client, answer, name, DATA)
    assert refused(client.get(location)) == (404, "BLOB_UPLOAD_UNKNOWN")


def test_a_blob_is_streamed_without_a_length(client: httpx.Client, name: str) -> None:
    """PATCH without Content-Length and Content-Range goes to the end, however often."""
    location = start_upload(client, name)

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(DATA), 999):
            yield DATA[start : start + 999]

    assert_session(client.patch(location, content=pieces()), 202, location, held=len(DATA))
    assert_session(client.patch(location, content=pieces()), 202, location, held=2 * len(DATA))
    assert_created(client, put(client, location, digest_of(DATA * 2)), name, DATA * 2)


def test_an_empty_chunk_changes_nothing(client: httpx.Client, name: str) -> None:
    location = start_upload(client, name)
    assert_session(patch(client, location, b""), 202, location, held=0)
    assert_session(patch(client, location, DATA), 202, location, held=len(DATA))
    assert_session(patch(client, location, b""), 202, location, held=len(DATA))
    assert_created(client, put(client, location, digest_of(DATA)), name, DATA)


def test_the_range_may_be_written_as_http_does(client: httpx.Client, name: str) -> None:
    """RFC 9110, section 14.4; the specification itself leaves out "bytes" and the size."""
    location = start_upload(client, name)
    for start, form in enumerate(["bytes 0-0/*", "bytes 1-1/4", "2-2/*", "3-3"]):
        answer = patch(client, location, DATA[start : start + 1], form)
        assert_session(answer, 202, location, held=start + 1)


@pytest.mark.parametrize(
    "covered", ["0-9", "99-108", "101-110", "50-149", "9223372036854775808-9223372036854775817"]
)
def test_a_chunk_elsewhere_than_at_the_end_is_416(
    client: httpx.Client, name: str, covered: str
) -> None:
    """ "Pushing a blob in chunks": out of order, overlapping, with a gap; the session goes on."""
    location = start_upload(client, name)
    patch(client, location, DATA[:100], "0-99")
    body = b"x" * (100 if covered == "50-149" else 10)
    for answer in (
        patch(client, location, body, covered),
        client.put(
            location,
            params={"digest": digest_of(DATA)},
            content=body,
            headers={"Content-Range": covered},
        ),
    ):
        assert refused(answer) == (416, "RANGE_INVALID")
        assert answer.headers["Range"] == "0-99"
        assert answer.headers["Location"] == location
    patch(client, location, DATA[100:], f"100-{len(DATA) - 1}")
    assert_created(client, put(client, location, digest_of(DATA)), name, DATA)


def test_one_request_at_a_time_works_on_a_session(
    server: UllageServer, client: httpx.Client, name: str
) -> None:
    """R18: two at once would mix their bytes; the second is told to come back."""
    before = uploads(server)
    location = start_upload(client, name)
    with Connection(server) as first:
        first.request("PATCH", location, body=BIG[:-10], length=len(BIG))
        wait_for_bytes(server.data / "uploads", before)
        for second in (patch(client, location, b""), put(client, location, digest_of(BIG), BIG)):
            assert refused(second) == (503, "UNAVAILABLE")
            assert "Retry-After" in second.headers
        # Not on the connection of the refused PUT: the server ends it, as its body was not read.
        assert httpx.get(f"{server.url}{location}").status_code == 204
        assert first.send(BIG[-10:]).answer().status == 202
    assert_created(client, put(client, location, digest_of(BIG)), name, BIG)


def test_a_slow_chunk_does_not_land_behind_a_faster_one(
    server: UllageServer, client: httpx.Client, name: str
) -> None:
    """R18: it belongs where the session was when it began, and that is taken."""
    location = start_upload(client, name)
    with Connection(server) as slow:
        slow.request("PATCH", location, "Expect: 100-continue\r\n", length=len(SMALL))
        assert b" 100 " in slow.head(), "the server reads the body"
        slow.send(SMALL[:-10])
        assert patch(client, location, SMALL).status_code == 202
        answer = slow.send(SMALL[-10:]).answer()
        assert (answer.status, answer.code) == (416, "RANGE_INVALID")
        assert answer.headers["range"] == f"0-{len(SMALL) - 1}"
    assert_created(client, put(client, location, digest_of(SMALL)), name, SMALL)


# --- when the line breaks -------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["FIN", "RST", "half-close"])
@pytest.mark.parametrize(
    ("sent", "data"),
    [(n, data) for data in (BIG, SMALL) for n in (0, 1, len(data) // 2, len(data) - 1)],
    ids=lambda value: str(value if isinstance(value, int) else len(value)),
)
def test_an_upload_goes_on_after_a_broken_connection(
    server: UllageServer, client: httpx.Client, name: str, sent: int, data: bytes, how: str
) -> None:
    """F31: what arrived is kept, and the session says how much that is."""
    location = start_upload(client, name)
    with Connection(server) as broken:
        broken.request("PATCH", location, body=data[:sent], length=len(data))
        if how == "RST":
            broken.reset()  # The kernel may throw away what the server had not read yet.
        elif how == "half-close":
            answer = broken.half_close().answer()
            assert (answer.status, answer.code) == (400, "SIZE_INVALID")
    if how != "RST":
        held = f"0-{max(sent - 1, 0)}"
        wait_for(lambda: client.get(location).headers["Range"] == held, f"not {held}")

    # "0-0" is what a session says that holds one byte, and one that holds none.
    one_or_none = itertools.cycle([1, 0])

    def resumed() -> bool:
        offset = next(one_or_none) if sent == 1 else offset_of(client, location)
        assert offset <= sent
        answer = patch(client, location, data[offset:], f"{offset}-{len(data) - 1}")
        # The server may still be busy with what it got before: 503, or 416 once it is done.
        assert answer.status_code in (202, 416, 503), answer.text
        return answer.status_code == 202

    wait_for(resumed, "not resumed")
    assert put(client, location, digest_of(data)).status_code == 201


@pytest.mark.parametrize("data", [BIG, SMALL], ids=len)
def test_a_broken_put_leaves_the_session_as_it_was(
    server: UllageServer, client: httpx.Client, name: str, data: bytes
) -> None:
    """A PUT is all or nothing."""
    location = start_upload(client, name)
    patch(client, location, data[:1000])
    digest = digest_of(data)
    with Connection(server) as broken:
        broken.request("PUT", f"{location}?digest={digest}", body=data[1000:-1], length=len(data))
    wait_for(lambda: patch(client, location, b"").status_code == 202, "still claimed")
    assert_session(client.get(location), 204, location, held=1000)
    assert put(client, location, digest, data[1000:]).status_code == 201


def test_a_broken_single_post_leaves_nothing(
    server: UllageServer, client: httpx.Client, name: str
) -> None:
    """No client knows its address, so none can go on with it."""
    before = uploads(server)
    with Connection(server) as broken:
        path = f"/v2/{name}/blobs/uploads/?digest={digest_of(BIG)}"
        broken.request("POST", path, body=BIG[:-1], length=len(BIG))
        wait_for(lambda: uploads(server) != before, "no upload began")
    wait_for(lambda: uploads(server) == before, "the upload was left behind")
    assert refused(client.get(f"/v2/{name}/blobs/{digest_of(BIG)}")) == (404, "BLOB_UNKNOWN")


def test_a_lost_answer_may_be_asked_for_again(client: httpx.Client, name: str) -> None:
    """F36: every request of a push may be repeated by a client that heard nothing."""
    location, digest = start_upload(client, name), digest_of(DATA)
    patch(client, location, DATA[:100], "0-99")
    again = patch(client, location, DATA[:100], "0-99")
    assert (again.status_code, again.headers["Range"]) == (416, "0-99")
    for data in (DATA[100:], DATA[100:], b""):
        assert_created(client, put(client, location, digest, data), name, DATA)
    assert refused(put(client, location, digest_of(b"x"))) == (404, "BLOB_UPLOAD_UNKNOWN")
    assert refused(put(client, location, digest_of(b"x"), b"x")) == (404, "BLOB_UPLOAD_UNKNOWN")
    assert refused(patch(client, location, DATA)) == (404, "BLOB_UPLOAD_UNKNOWN")


# --- when the bytes are others --------------------------------------------------------------------


def test_wrong_bytes_are_refused_and_the_session_stays(client: httpx.Client, name: str) -> None:
    """F34: 400 DIGEST_INVALID, nothing is stored, and the right bytes may follow."""
    location, digest = start_upload(client, name), digest_of(DATA)
    patch(client, location, DATA[:100])
    assert refused(put(client, location, digest, DATA)) == (400, "DIGEST_INVALID")
    assert_session(client.get(location), 204, location, held=100)
    assert refused(put(client, location, digest)) == (400, "DIGEST_INVALID")
    assert_session(client.get(location), 204, location, held=100)
    assert client.head(f"/v2/{name}/blobs/{digest}").status_code == 404
    assert_created(client, put(client, location, digest, DATA[100:]), name, DATA)


def test_wrong_bytes_in_a_single_post_leave_nothing(
    server: UllageServer, client: httpx.Client, name: str
) -> None:
    before = uploads(server)
    parameters = {"digest": digest_of(DATA)}
    answer = client.post(f"/v2/{name}/blobs/uploads/", params=parameters, content=b"other")
    assert refused(answer) == (400, "DIGEST_INVALID")
    wait_for(lambda: uploads(server) == before, "the upload was left behind")


# --- cancelled ------------------------------------------------------------------------------------


def test_an_upload_is_cancelled(server: UllageServer, client: httpx.Client, name: str) -> None:
    """end-14: 204, and the session and its bytes are gone."""
    before = uploads(server)
    location = start_upload(client, name)
    patch(client, location, DATA)
    assert uploads(server) != before
    answer = client.delete(location)
    assert (answer.status_code, answer.content) == (204, b"")
    for gone in (
        client.delete(location),
        client.get(location),
        patch(client, location, DATA),
        put(client, location, digest_of(DATA), DATA),
        put(client, location, digest_of(DATA)),
    ):
        assert refused(gone) == (404, "BLOB_UPLOAD_UNKNOWN")
    wait_for(lambda: uploads(server) == before, "the bytes were left behind")


def test_a_session_belongs_to_its_repository(client: httpx.Client, name: str) -> None:
    """CVE-2026-32589: no client reaches it through another one."""
    location = start_upload(client, name)
    patch(client, location, DATA)
    elsewhere = location.replace(name, f"{name}/other")
    for answer in (
        client.get(elsewhere),
        client.delete(elsewhere),
        patch(client, elsewhere, DATA),
        put(client, elsewhere, digest_of(DATA)),
    ):
        assert refused(answer) == (404, "BLOB_UPLOAD_UNKNOWN")
    assert_created(client, put(client, location, digest_of(DATA)), name, DATA)


# --- mounted --------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_blob_is_mounted_from_another_repository(
    server: UllageServer, client: httpx.Client, name: str, algorithm: str
) -> None:
    """end-11: 201, no byte is stored a second time; asked again it is 201 again."""
    source = f"{name}/source"
    data = os.urandom(1000)
    digest = push_blob(client, source, data, algorithm)
    stored = server.disk_bytes()
    for _ in range(2):
        answer = client.post(f"/v2/{name}/blobs/uploads/", params={"mount": digest, "from": source})
        assert_created(client, answer, name, data)
    # Less, if what another test left is erased meanwhile.
    assert server.disk_bytes() <= stored


@pytest.mark.parametrize(
    "source", [None, "", "no/such/repository", "UPPER", "../x", "a" * 300, "{name}/other"]
)
def test_what_cannot_be_mounted_is_uploaded(
    client: httpx.Client, name: str, source: str | None
) -> None:
    """ "it SHOULD return a 202": with a session, as if no mount had been asked for."""
    push_blob(client, f"{name}/other", b"other")
    push_blob(client, f"{name}/source", DATA)
    parameters = {"mount": str(digest_of(DATA))}
    if source is not None:
        parameters["from"] = source.format(name=name)
    answer = client.post(f"/v2/{name}/blobs/uploads/", params=parameters)
    location = answer.headers["Location"]
    assert_session(answer, 202, location, held=0)
    assert_created(client, put(client, location, digest_of(DATA), DATA), name, DATA)


def test_a_mount_keeps_the_blob_when_its_source_goes(client: httpx.Client, name: str) -> None:
    """R10: the blob has two holders then, and one is as good as the other."""
    source = f"{name}/source"
    data = os.urandom(1000)
    image = push_image(client, source, "v1", [data])
    digest = digest_of(data)
    parameters = {"mount": digest, "from": source}
    assert client.post(f"/v2/{name}/blobs/uploads/", params=parameters).status_code == 201
    assert client.delete(f"/v2/{source}/manifests/{image}").status_code == 202
    assert refused(client.get(f"/v2/{source}/blobs/{digest}")) == (404, "BLOB_UNKNOWN")
    assert client.get(f"/v2/{name}/blobs/{digest}").content == data


def test_head_says_what_need_not_be_pushed(client: httpx.Client, name: str) -> None:
    """ "Checking if content exists in the registry"."""
    digest = digest_of(DATA)
    assert client.head(f"/v2/{name}/blobs/{digest}").status_code == 404
    push_blob(client, name, DATA)
    assert client.head(f"/v2/{name}/blobs/{digest}").status_code == 200
    assert error_code(client.get(f"/v2/{name}/blobs/{SHA512}")) == "BLOB_UNKNOWN"
