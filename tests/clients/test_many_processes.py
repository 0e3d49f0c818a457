"""docs/guides/many-processes.md, word for word: two processes behind a real nginx, round robin.

Only addresses, ports and folders are others than on the page.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import shlex
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import httpx
import psycopg
import pytest

from tests.clients.containers import ContainersTool, Podman, Skopeo
from tests.clients.dockerd import Docker
from tests.clients.programs import RUN_SECONDS, payload, write_app_context
from tests.clients.secured import admin_of
from tests.support.actors import PATIENCE_SECONDS, wait_until
from tests.support.nginx import Nginx
from tests.support.postgres import PostgresServer
from tests.support.server import UllageServer, run_ullage
from ullage.clock import system_time
from ullage.registry.queries.processes import DEAD_AFTER
from ullage.tls import self_signed

pytestmark = [pytest.mark.client, pytest.mark.postgresql, pytest.mark.slow]

PAGE = (Path(__file__).parents[2] / "docs/guides/many-processes.md").read_text("utf-8")
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```\n", re.DOTALL | re.MULTILINE)
COMMANDS = re.findall(r"^    (\S.*)$", _BLOCK.sub("", PAGE), re.MULTILINE)
(_, SETTINGS), (_, SITE), (_, SITE_WITH_TLS) = _BLOCK.findall(PAGE)
(CONNECTIONS,) = map(int, re.findall(r"keeps up to (\d+) connections", PAGE))
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def commands(start: str) -> list[str]:
    """The page's commands that start so."""
    found = [line for line in COMMANDS if line.startswith(start)]
    assert found, start
    return found


class Site:
    """The registry of the page."""

    def __init__(self, folder: Path, postgres: PostgresServer) -> None:
        self._folder, self._postgres = folder, postgres
        self.tried: set[str] = set()
        (folder / "etc").mkdir()
        self._here = {
            "127.0.0.1:5432": f"127.0.0.1:{postgres.port}",
            "/srv/ullage": str(folder / "srv"),
            "/etc/ullage": str(folder / "etc"),
        }
        (folder / "etc" / "ullage.toml").write_text(self.here(SETTINGS))

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for line in commands("CREATE"):
                self._administer(line)
                kind, name = line.split()[1:3]
                stack.callback(self._administer, f"DROP {kind} {name}")
                self.tried.add(line)
            # After the servers have gone.
            stack.callback(self._disconnect)
            self.servers = [
                stack.enter_context(self._server(line)) for line in commands("ullage se")
            ]
            for number, server in enumerate(self.servers, 1):
                self._here[f"127.0.0.1:500{number}"] = server.host
            nginx = Nginx(self._folder / "nginx", site=self._listening_on)
            stack.enter_context(nginx)
            self.host = self._here["127.0.0.1:5000"]
            self.password = admin_of(self.servers[0]).password
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self.servers:
            server.assert_no_500()
        self._stack.close()

    def here(self, text: str) -> str:
        """The page's words, with the addresses and folders of here."""
        for there, here in self._here.items():
            text = text.replace(there, here)
        return text

    def words(self, line: str) -> list[str]:
        """A command of the page, to be tried."""
        self.tried.add(line)
        return shlex.split(self.here(line))

    def http(self, transport: httpx.BaseTransport | None = None) -> httpx.Client:
        """A client of the balancer, as the administrator."""
        return httpx.Client(
            base_url=f"http://{self.host}",
            auth=("admin", self.password),
            timeout=60,
            transport=transport,
        )

    def patch_anew(self, place: str, piece: bytes) -> httpx.Response:
        """On a connection of its own: nginx may close one that a refused request still sends on."""
        with self.http() as http:
            return http.patch(place, content=piece)

    @contextlib.contextmanager
    def unfinished(self, place: str, piece: bytes) -> Iterator[None]:
        """A request that has sent half of its bytes, by way of the balancer."""
        login = base64.b64encode(f"admin:{self.password}".encode()).decode()
        head = (
            f"PATCH {place} HTTP/1.1\r\nHost: {self.host}\r\nAuthorization: Basic {login}\r\n"
            f"Content-Type: application/octet-stream\r\nContent-Length: {len(piece)}\r\n\r\n"
        )
        address, port = self.host.split(":")
        with socket.create_connection((address, int(port))) as connection:
            connection.sendall(head.encode() + piece[: len(piece) // 2])
            yield

    def server_of_upload(self) -> UllageServer:
        """Which process has the file of the only upload open."""
        with self._database() as connection:
            rows = connection.execute(b"SELECT storage_key FROM uploads").fetchall()
        ((key,),) = rows
        found: list[UllageServer] = []

        def look() -> bool:
            found.extend(server for server in self.servers if key in open_files(server))
            return bool(found)

        wait_until(look, "a process that writes the upload's file")
        return found[0]

    def connections(self) -> int:
        """How many the registry's database has."""
        with self._database() as connection:
            query = (
                b"SELECT count(*) FROM pg_stat_activity"
                b" WHERE datname = 'ullage' AND application_name <> 'onlooker'"
            )
            row = connection.execute(query).fetchone()
        assert row is not None
        return int(row[0])

    def _database(self) -> psycopg.Connection[tuple[Any, ...]]:
        url = self._postgres.url("ullage")
        return psycopg.connect(url, autocommit=True, application_name="onlooker")

    def with_tls(self, folder: Path) -> Nginx:
        """Another nginx, with the page's lines for TLS; its authority is in `folder`."""
        made = self_signed(folder, (), system_time())
        for name, file in (("chain.pem", made.certificate), ("key.pem", made.key)):
            (self._folder / "etc" / name).write_bytes(file.read_bytes())
        plain = next(line for line in SITE.splitlines(True) if "listen" in line)

        def site(port: int) -> str:
            return self.here(SITE.replace(plain, SITE_WITH_TLS)).replace(
                self.host, f"127.0.0.1:{port}"
            )

        return Nginx(folder / "nginx", site=site)

    def _server(self, line: str) -> UllageServer:
        command, serve, *words = self.words(line)
        assert (command, serve) == ("ullage", "serve")
        given = dict(zip(words[::2], words[1::2], strict=True))
        # It listens on a free port instead.
        assert given.pop("--listen").startswith("127.0.0.1:")
        data = Path(given.pop("--data"))
        data.parent.mkdir(exist_ok=True)
        return UllageServer(data, *(word for pair in given.items() for word in pair))

    def _listening_on(self, port: int) -> str:
        self._here["127.0.0.1:5000"] = f"127.0.0.1:{port}"
        return self.here(SITE)

    def _disconnect(self) -> None:
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'ullage'"
        self._administer(query)

    def _administer(self, statement: str) -> None:
        with psycopg.connect(self._postgres.url(), autocommit=True) as connection:
            connection.execute(statement.encode())


def open_files(server: UllageServer) -> str:
    """The names of all files that a process has open."""
    names = []
    for link in Path(f"/proc/{server.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            names.append(str(link.readlink()))
    return " ".join(names)


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer
) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site"), postgres_server) as site:
        yield site


# --- the page -------------------------------------------------------------------------------------


def test_every_command_of_the_page_works(site: Site, docker: Docker, tmp_path: Path) -> None:
    puts = [requests(server, "PUT") for server in site.servers]
    with Podman() as podman, Skopeo() as skopeo:
        docker.build(write_app_context(tmp_path / "1", "scratch", "one"), f"{site.host}/app:1")
        podman.build(write_app_context(tmp_path / "2", "scratch", "two"), f"{site.host}/app:2")
        for line in COMMANDS:
            program = line.split()[0]
            if program == "docker":
                typed([docker._docker, *site.words(line)[1:]], docker._env, site.password)
                if "push" in line:
                    docker.forget_everything()
            if program in ("podman", "skopeo"):
                tool: ContainersTool = podman if program == "podman" else skopeo
                typed(tool._command(*site.words(line)[1:]), tool._env, site.password)
                if "podman push" in line:
                    podman("rmi", "--all", "--force")
    with site.http() as http:
        assert http.get("/v2/_catalog").json()["repositories"] == ["app"]
        assert http.get("/v2/app/tags/list").json()["tags"] == ["1", "2"]
    for line in (*commands("ullage audit"), *commands("ullage check")):
        done = run_ullage(*site.words(line)[1:])
        assert done.returncode == 0, done.stdout + done.stderr
    assert site.tried == {*COMMANDS}
    assert all(requests(s, "PUT") > n for s, n in zip(site.servers, puts, strict=True))


def typed(command: Sequence[str | Path], env: Mapping[str, str], password: str) -> None:
    """Run a command, with the password at hand for those that ask for it."""
    done = subprocess.run(
        command,
        env=dict(env),
        input=password,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


def requests(server: UllageServer, method: str) -> int:
    """How many of a kind a process has answered, and logged."""
    return server.log.count(f'"method": "{method}"')


def test_the_lines_for_tls_work(site: Site, tmp_path: Path) -> None:
    with site.with_tls(tmp_path) as nginx:
        trust = ssl.create_default_context(cafile=tmp_path / "ca.pem")
        answer = httpx.get(f"https://127.0.0.1:{nginx.port}/v2/", verify=trust)
    assert answer.status_code == 401
    assert f'realm="https://127.0.0.1:{nginx.port}/' in answer.headers["WWW-Authenticate"]


def test_clients_are_known_by_their_own_addresses(site: Site) -> None:
    with site.http(httpx.HTTPTransport(local_address="127.0.0.5")) as http:
        push_image(http, "from-afar", b"config")
        entries = http.get("/api/v1/audit", params={"repository": "from-afar"}).json()["entries"]
    assert entries
    assert {entry["address"] for entry in entries} == {"127.0.0.5"}


def push_image(http: httpx.Client, repository: str, config: bytes) -> str:
    """An image without layers; the path of its manifest."""
    about = {"digest": digest(config)}
    expect(201, http.post(f"/v2/{repository}/blobs/uploads/", params=about, content=config))
    described = about | {"mediaType": "application/octet-stream", "size": len(config)}
    manifest = json.dumps(
        {"schemaVersion": 2, "mediaType": MANIFEST, "config": described, "layers": []}
    ).encode()
    path = f"/v2/{repository}/manifests/{digest(manifest)}"
    expect(201, http.put(path, content=manifest, headers={"Content-Type": MANIFEST}))
    return path


def expect(status: int, answer: httpx.Response) -> httpx.Response:
    assert answer.status_code == status, (
        f"{answer.request.method}: {answer.status_code} {answer.text}"
    )
    return answer


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_no_process_has_more_connections_than_the_page_says(site: Site) -> None:
    """While more requests come at once than there are connections."""
    done = threading.Event()

    def read() -> None:
        with site.http() as http:
            while not done.is_set():
                http.get("/v2/_catalog")
                http.get("/v2/app/tags/list")
                http.head(f"/v2/app/blobs/{digest(b'')}")
                http.get("/v2/app/manifests/1")

    readers = [threading.Thread(target=read) for _ in range(50)]
    for reader in readers:
        reader.start()
    try:
        counts = [site.connections() for _ in range(30)]
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert 4 < max(counts) <= CONNECTIONS * len(site.servers)


# --- what changes process, and what loses its process ---------------------------------------------


def test_an_upload_may_change_process_with_each_chunk(site: Site) -> None:
    chunks = [payload(f"chunk {number}", 200_000) for number in range(8)]
    before = [requests(server, "PATCH") for server in site.servers]

    def taken() -> list[int]:
        return [requests(s, "PATCH") - n for s, n in zip(site.servers, before, strict=True)]

    with site.http() as http:
        place = expect(202, http.post("/v2/hopping/blobs/uploads/")).headers["Location"]
        for chunk in chunks:
            place = expect(202, http.patch(place, content=chunk)).headers["Location"]
        whole = b"".join(chunks)
        expect(201, http.put(place, params={"digest": digest(whole)}))
        assert http.get(f"/v2/hopping/blobs/{digest(whole)}").content == whole
    wait_until(lambda: sum(taken()) == len(chunks), "all chunks are logged")
    assert min(taken()) > 1, "both processes took some"


def test_an_upload_whose_process_is_killed_goes_on_at_the_other(site: Site) -> None:
    """deletion.md section 3.4: what it had claimed is free DEAD_AFTER its last sign of life."""
    first, rest = payload("first", 200_000), payload("rest", 8_000_000)
    with site.http() as http:
        place = expect(202, http.post("/v2/killed/blobs/uploads/")).headers["Location"]
        place = expect(202, http.patch(place, content=first)).headers["Location"]
        with site.unfinished(place, rest):
            server = site.server_of_upload()
            server.kill9()
        killed_at = time.monotonic()
        refused = 0
        while (answer := site.patch_anew(place, rest)).status_code == 503:
            refused += 1
        seconds = time.monotonic() - killed_at
        expect(202, answer)
        assert seconds < DEAD_AFTER.total_seconds() + 2, refused
        expect(201, http.put(answer.headers["Location"], params={"digest": digest(first + rest)}))
        server.start()


def test_processes_restart_one_after_the_other_while_clients_are_served(site: Site) -> None:
    """Images are pushed, pulled and deleted meanwhile, one request after the other."""
    done = threading.Event()

    def work() -> None:
        number = 0
        with site.http() as http:
            while not done.is_set():
                path = push_image(http, "restarting", f"image {number}".encode())
                expect(200, http.get(path))
                expect(202, http.delete(path))
                number += 1

    with ThreadPoolExecutor(1) as pool:
        client = pool.submit(work)
        try:
            for server in site.servers * 2:
                assert server.terminate() == 0
                server.start()
                before = server.log.count("/restarting/")
                wait_until(
                    lambda: client.done() or server.log.count("/restarting/") > before,  # noqa: B023
                    "the balancer uses it again",
                )
        finally:
            done.set()
        client.result(PATIENCE_SECONDS)
