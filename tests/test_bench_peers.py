"""What the benchmarks compare with: other builds, other commits, each started as often as asked."""

import sys
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.connection import Connection
from bench.images import Blob, push_blob
from bench.measure import Row, Server, rows
from bench.servers import ROOT, Checkout, Distribution, DockerRegistry, Place, Ullage
from tests.support.require import require_command

pytestmark = pytest.mark.thorough

# Answers everything with the checkout's own words.
_OTHER_COMMIT = """\
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "7")
        self.end_headers()
        self.wfile.write(b"another")
    def log_message(self, *_):
        pass
host, port = sys.argv[sys.argv.index("--listen") + 1].split(":")
http.server.HTTPServer((host, int(port)), Handler).serve_forever()
"""


def test_a_peer_of_a_checkout_runs_the_source_of_that_checkout(tmp_path: Path) -> None:
    source = tmp_path / "before" / "src" / "ullage"
    source.mkdir(parents=True)
    (source / "__init__.py").touch()
    (source / "__main__.py").write_text(_OTHER_COMMIT)
    peer = Place(tmp_path, checkout=tmp_path / "before").peer("peer")
    assert isinstance(peer, Checkout)
    assert peer.name == "ullage of before"
    peer.start()
    try:
        with Connection(peer.url) as connection:
            assert connection.expect(200, "GET", "/").body == b"another"
    finally:
        peer.stop()


def test_a_checkout_runs_by_its_own_environment_if_it_has_one(tmp_path: Path) -> None:
    own = tmp_path / ".venv" / "bin" / "python"
    bare = Checkout(tmp_path / "data", tmp_path).command()
    own.parent.mkdir(parents=True)
    own.symlink_to(sys.executable)
    assert bare[0] == sys.executable
    assert Checkout(tmp_path / "data", tmp_path).command()[0] == str(own)


def test_a_peer_of_a_binary_is_that_program(tmp_path: Path) -> None:
    """Under its name, with a configuration that it understands; it collects, too."""
    program = tmp_path / "registry"
    program.symlink_to(require_command("docker-registry"))
    peer = Place(tmp_path, distribution=Distribution("distribution 3", str(program))).peer("peer")
    assert isinstance(peer, DockerRegistry)
    blob = Blob.random(2000)
    peer.start()
    try:
        assert Path(str(peer.command()[0])) == program
        with Connection(peer.url) as connection:
            push_blob(connection, "app", blob.data, blob.digest)
    finally:
        peer.stop()
    peer.collect()
    assert peer.name == "distribution 3"


@pytest.mark.parametrize("restart", [False, True])
def test_servers_start_anew_for_each_round_when_that_is_asked(
    tmp_path: Path, restart: bool
) -> None:
    """On the same folder and address, so that what the row prepared is still there."""
    place = Place(tmp_path, checkout=ROOT)
    blob = Blob.random(2000)
    pids: dict[str, list[int]] = {}

    def prepare(server: Server) -> None:
        with Connection(server.url) as connection:
            push_blob(connection, "app", blob.data, blob.digest)

    def once(server: Server, _: object) -> float:
        with Connection(server.url) as connection:
            connection.expect(200, "HEAD", f"/v2/app/blobs/{blob.digest}")
        assert isinstance(server, Ullage)
        pids.setdefault(server.name, []).append(server.pid)
        return 1.0

    row = Row("row", "title", "requests/s", prepare, once)
    ullage, peer = Ullage(tmp_path / "ullage"), place.peer("peer")
    list(rows([row], ullage, peer, place, 2, lambda _: None, restart=restart))
    # The warm-up's, and those of both rounds.
    assert [len(of_one) for of_one in pids.values()] == [3, 3]
    assert {len(set(of_one)) for of_one in pids.values()} == {3 if restart else 1}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--peer-binary", "zot=/bin/true"], "zot=/bin/true: distribution3, then =PATH"),
        (["--peer-binary", "distribution3=/nowhere/registry"], "/nowhere/registry: no program"),
        (["--peer-checkout", "/nowhere"], "/nowhere: no src/ullage below it"),
        (["--peer", "http://127.0.0.1:1", "--peer-checkout", "."], "not allowed with argument"),
    ],
)
def test_a_peer_that_cannot_be_run_is_refused_in_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err.splitlines()[-1]
