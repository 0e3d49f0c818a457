"""`ullage serve`: what it says when it starts, when it refuses to, and how it ends."""

import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.server.pushing import (
    push_blob,
    push_image,
    start_upload,
    wait_for_bytes,
)
from tests.server.raw import Closed, Connection
from tests.support.server import UllageServer, run_ullage
from ullage.oci.digest import digest_of

pytestmark = pytest.mark.thorough

DATA = os.urandom(8 * 1024 * 1024)


# --- starting -------------------------------------------------------------------------------------


def test_it_says_where_it_is_and_what_to_try_next(tmp_path: Path) -> None:
    """The address, where the data is, and three commands; those that can be tried here, work."""
    with UllageServer(tmp_path / "data", "--listen", "localhost:0") as server:
        first, pages, heading, *commands = server.log.splitlines()
        assert f"serves {server.url}, data in {server.data}" in first
        assert pages.endswith(f" {server.url}/ui/")
        assert heading == "Try next:"
        push, catalog, check = (line.strip() for line in commands)
        image = f"{server.host}/IMAGE"
        assert push == f"docker tag IMAGE {image} && docker push {image}"
        assert httpx.get(catalog.removeprefix("curl ")).json() == {"repositories": []}
        name, *arguments = check.split()
        assert name == "ullage"
        assert run_ullage(*arguments).returncode == 0


def test_it_listens_on_ipv6(tmp_path: Path) -> None:
    with suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        with UllageServer(tmp_path / "data", "--listen", "[::1]:0") as server:
            assert server.url.startswith("http://[::1]:")
            assert httpx.get(f"{server.url}/v2/").status_code == 200
        return
    pytest.skip("this machine has no IPv6 loopback address")


def refuses_to_start(*arguments: str | Path) -> tuple[int, str]:
    """Exit code and the one line that says why."""
    done = run_ullage("serve", *arguments, timeout_seconds=20)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("ERROR: ")
    return done.returncode, line


def test_a_second_server_refuses_to_start(server: UllageServer, tmp_path: Path) -> None:
    """One process owns a SQLite database, and one an address; the first one never notices."""
    code, line = refuses_to_start("--listen", "127.0.0.1:0", "--data", server.data)
    assert code == 1
    assert f"in use by process {server.pid}" in line
    code, line = refuses_to_start("--listen", server.host, "--data", tmp_path / "other")
    assert code == 1
    port = server.host.rpartition(":")[2]
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in line
    assert "--listen" in line
    assert not (tmp_path / "other").exists()
    assert httpx.get(f"{server.url}/v2/").status_code == 200


def test_an_address_for_everybody_is_refused(tmp_path: Path) -> None:
    """Without accounts every client of the server may delete; so only this machine reaches it."""
    code, line = refuses_to_start("--listen", "0.0.0.0:5000", "--data", tmp_path / "data")
    assert code == 2
    assert "listen: '0.0.0.0:5000'" in line
    for way_on in ("--auth", "--htpasswd", "127.0.0.1"):
        assert way_on in line
    assert not (tmp_path / "data").exists()


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    """What is wrong, and what to change; no traceback, and nothing is left running."""
    (tmp_path / "control.sock").write_text("")
    code, line = refuses_to_start("--listen", "127.0.0.1:0", "--data", tmp_path)
    assert code == 1
    assert f"{tmp_path / 'control.sock'} is in the way" in line


# --- stopping -------------------------------------------------------------------------------------


def wait_until_it_takes_no_more(server: UllageServer) -> None:
    """Wait for the server to have heard that it should stop."""
    deadline = time.monotonic() + 10
    with suppress(ConnectionRefusedError):
        while True:
            Connection(server).close()
            assert time.monotonic() < deadline, "still accepts"
            time.sleep(0.01)


def finish(server: UllageServer, location: str, held: int) -> None:
    """Go on with an upload of DATA and end it."""
    with httpx.Client(base_url=server.url, timeout=30) as client:
        assert client.patch(location, content=DATA[held:]).status_code == 202
        assert client.put(location, params={"digest": digest_of(DATA)}).status_code == 201


def test_it_finishes_what_it_does_and_ends_with_0(tmp_path: Path) -> None:
    """A running push and two running pulls end as if nothing had happened; then it stops."""
    with UllageServer(tmp_path / "data") as server:
        with httpx.Client(base_url=server.url, timeout=30) as client:
            path = f"/v2/app/blobs/{push_blob(client, 'app', DATA)}"
            location = start_upload(client, "app")
        with (
            Connection(server, receive_buffer=65536) as whole,
            Connection(server, receive_buffer=65536) as part,
            Connection(server) as push,
            Connection(server) as idle,
        ):
            whole.request("GET", path).head()
            part.request("GET", path, "Range: bytes=1-\r\n").head()
            push.request("PATCH", location, "Expect: 100-continue\r\n", length=len(DATA))
            assert push.answer().status == 100
            assert idle.request("GET", "/v2/").answer().status == 200
            os.kill(server.pid, signal.SIGTERM)
            wait_until_it_takes_no_more(server)
            assert idle.is_closed()
            assert push.send(DATA).answer().status == 202
            assert whole.exactly(len(DATA)) == DATA
            assert part.exactly(len(DATA) - 1) == DATA[1:]
        assert server.wait() == 0
        server.start()
        finish(server, location, held=len(DATA))
        os.kill(server.pid, signal.SIGINT)
        assert server.wait() == 0
        server.assert_no_500()


def test_it_waits_no_longer_than_it_was_told_and_ends_with_1(tmp_path: Path) -> None:
    """Who is not done in time is cut off; an upload can be gone on with after the next start."""
    half = len(DATA) // 2
    with UllageServer(tmp_path / "data", "--shutdown-grace", "500ms") as server:
        with httpx.Client(base_url=server.url, timeout=30) as client:
            path = f"/v2/app/blobs/{push_blob(client, 'app', DATA * 2)}"
            location = start_upload(client, "app")
        with Connection(server, receive_buffer=65536) as pull, Connection(server) as push:
            pull.request("GET", path).head()
            push.request("PATCH", location, body=DATA[:half], length=len(DATA))
            wait_for_bytes(server.data / "uploads")
            assert server.terminate(timeout_seconds=20) == 1
            assert "some requests did not finish within 0.5 s" in server.log
            with pytest.raises(Closed):
                pull.exactly(len(DATA) * 2)
        server.start()
        with httpx.Client(base_url=server.url, timeout=30) as client:
            held = int(client.get(location).headers["Range"].removeprefix("0-")) + 1
        assert 1 < held <= half
        finish(server, location, held)
        server.assert_no_500()


def test_a_clean_stop_forgets_no_pull(tmp_path: Path) -> None:
    """Last pulls are written down off the request path, and at a clean stop."""
    with UllageServer(tmp_path / "data") as server:
        with httpx.Client(base_url=server.url) as client:
            digest = push_image(client, "app", "v1", (b"pulled",))
            client.get("/v2/app/manifests/v1", headers={"User-Agent": "containerd/2.0"})
        assert server.terminate() == 0
        server.start()
        (place,) = httpx.get(f"{server.url}/api/v1/why/{digest}").json()["manifest"]
        assert place["last_pull"]["by"] == "node"
