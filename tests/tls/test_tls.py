"""TLS as clients meet it: what the self-signed certificate proves, and how it is replaced."""

import hashlib
import http.client
import os
import shutil
import signal
import socket
import ssl
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from cryptography import x509

from tests.support.server import UllageServer, run_ullage
from ullage.tls import (
    AUTHORITY_LIFETIME,
    CERTIFICATE_LIFETIME,
    RENEW_BEFORE,
    Certificates,
    self_signed,
)

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
MIB = 2**20
BLOB = os.urandom(32 * MIB)
BLOB_DIGEST = f"sha256:{hashlib.sha256(BLOB).hexdigest()}"
WAIT_SECONDS = 15.0
# Given on top of the local ones.
_NAMES = ("registry.example.com", "my.localhost", "192.0.2.7")


class Pair(NamedTuple):
    """The files that a server was told to use, and the two certificates to put there."""

    certificate: Path
    key: Path
    first: Certificates
    second: Certificates

    def use(self, made: Certificates) -> None:
        self.certificate.write_bytes(made.certificate.read_bytes())
        self.key.write_bytes(made.key.read_bytes())


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """Certificates of two authorities; the first one is in use."""
    now = datetime.now(UTC)
    made = [self_signed(tmp_path / name, (), now) for name in ("first", "second")]
    pair = Pair(tmp_path / "cert.pem", tmp_path / "key.pem", *made)
    pair.use(pair.first)
    return pair


@pytest.fixture
def server(tmp_path: Path, pair: Pair) -> Iterator[UllageServer]:
    """A registry without accounts that serves HTTPS with the files of `pair`."""
    flags = ("--tls-cert", pair.certificate, "--tls-key", pair.key)
    with UllageServer(tmp_path / "data", *flags) as server:
        yield server
        server.assert_no_500()


# --- what is made ---------------------------------------------------------------------------------


_LIKELY = ("registry.localhost", "myregistry.localhost", "ullage.localhost")


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1", *_LIKELY, *_NAMES])
def test_the_self_signed_certificate_is_good_for_every_local_and_every_given_name(
    tmp_path: Path, name: str
) -> None:
    """RFC 5280, 6.1 and RFC 9525, 6: checked by OpenSSL, strictly, against the authority alone."""
    made = self_signed(tmp_path / "tls", _NAMES, datetime.now(UTC))
    assert _handshake(made, name) is None


def test_the_self_signed_certificate_is_good_for_no_other_name(tmp_path: Path) -> None:
    made = self_signed(tmp_path / "tls", _NAMES, datetime.now(UTC))
    for name in ("example.com", "other.example.com", "127.0.0.2", "192.0.2.8"):
        assert "mismatch" in str(_handshake(made, name))


def test_every_name_below_localhost_is_in_the_certificate(tmp_path: Path) -> None:
    """Go's clients take the wildcard; OpenSSL wants two dots in one, and so each name by itself."""
    made = self_signed(tmp_path / "tls", (), NOW)
    names = _certificate(made).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName)[:2] == ["localhost", "*.localhost"]


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_all_users_can_read_the_authority_and_only_the_owner_a_key(
    tmp_path: Path, umask: int
) -> None:
    """reliability.md S59; docker's daemon and other users' clients have to trust it."""
    old = os.umask(umask)
    try:
        made = self_signed(tmp_path / "tls", (), NOW)
    finally:
        os.umask(old)
    assert _mode(tmp_path / "tls") == 0o755
    assert {path.name: _mode(path) for path in made.key.parent.iterdir()} == {
        "ca.pem": 0o644,
        "ca.key": 0o600,
        "server.pem": 0o644,
        "server.key": 0o600,
    }


# --- when it is made again ------------------------------------------------------------------------


def test_authority_and_certificate_are_made_once(tmp_path: Path) -> None:
    before = _contents(self_signed(tmp_path / "tls", ("a.example",), NOW))
    later = NOW + CERTIFICATE_LIFETIME - RENEW_BEFORE - timedelta(days=1)
    assert _contents(self_signed(tmp_path / "tls", ("a.example",), later)) == before


@pytest.mark.parametrize("names", [("b.example",), (), ("a.example", "b.example")])
def test_other_names_make_another_certificate_of_the_same_authority(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    now = datetime.now(UTC)
    made = self_signed(tmp_path / "tls", ("a.example",), now)
    authority, certificate = made.authority.read_bytes(), made.certificate.read_bytes()
    self_signed(tmp_path / "tls", names, now)
    assert made.authority.read_bytes() == authority
    assert made.certificate.read_bytes() != certificate
    assert [_handshake(made, name) for name in names] == [None] * len(names)


def test_a_certificate_about_to_expire_is_made_again_by_the_same_authority(tmp_path: Path) -> None:
    made = self_signed(tmp_path / "tls", (), NOW)
    authority, before = made.authority.read_bytes(), _certificate(made)
    later = before.not_valid_after_utc - RENEW_BEFORE
    self_signed(tmp_path / "tls", (), later)
    assert made.authority.read_bytes() == authority
    assert _certificate(made).not_valid_after_utc == later + CERTIFICATE_LIFETIME
    _certificate(made).verify_directly_issued_by(_authority(made))


@pytest.mark.parametrize("days", [-400, -31, -29, 0, 1])
def test_no_certificate_outlives_its_authority_and_an_old_authority_is_replaced(
    tmp_path: Path, days: int
) -> None:
    """Whenever it starts, what it serves with is valid for a while yet, and so is the authority."""
    self_signed(tmp_path / "tls", (), NOW)
    later = NOW + AUTHORITY_LIFETIME + timedelta(days=days)
    made = self_signed(tmp_path / "tls", (), later)
    certificate, authority = _certificate(made), _authority(made)
    certificate.verify_directly_issued_by(authority)
    assert later + RENEW_BEFORE < certificate.not_valid_after_utc <= authority.not_valid_after_utc


@pytest.mark.parametrize("lost", ["ca.pem", "ca.key", "server.pem", "server.key"])
@pytest.mark.parametrize("how", ["removed", "of another", "cut off"])
def test_files_that_do_not_belong_together_are_made_again(
    tmp_path: Path, lost: str, how: str
) -> None:
    """A crash between two files, or a backup that was restored in part."""
    now = datetime.now(UTC)
    self_signed(tmp_path / "tls", (), now)
    self_signed(tmp_path / "other", (), now)
    path = tmp_path / "tls" / lost
    if how == "removed":
        path.unlink()
    elif how == "of another":
        path.write_bytes((tmp_path / "other" / lost).read_bytes())
    else:
        path.write_bytes(path.read_bytes()[:100])
    made = self_signed(tmp_path / "tls", (), now)
    assert _handshake(made, "localhost") is None
    assert _mode(path) == (0o600 if path.suffix == ".key" else 0o644)


# --- a server that makes its own ------------------------------------------------------------------


def test_clients_that_trust_the_authority_go_on_after_a_restart(tmp_path: Path) -> None:
    with UllageServer(tmp_path / "data", "--tls", "self-signed") as server:
        authority = tmp_path / "data" / "tls" / "ca.pem"
        before = authority.read_bytes(), _leaf(server)
        assert str(authority) in server.log
        server.restart()
        assert (authority.read_bytes(), _leaf(server)) == before
        trusting = ssl.create_default_context(cafile=authority)
        for host in ("127.0.0.1", "localhost"):
            url = f"https://{host}:{server.host.rpartition(':')[2]}/v2/"
            assert httpx.get(url, verify=trusting, trust_env=False).status_code == 200
        server.assert_no_500()


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_others_on_this_machine_can_read_the_certificates_and_nothing_else(
    tmp_path: Path, umask: int
) -> None:
    """S59: a client that trusts the authority is often another user's: docker's daemon, a job."""
    with ExitStack() as stack:
        with _umask(umask):
            server = stack.enter_context(
                UllageServer(tmp_path / "data", "--auth", "--tls", "self-signed")
            )
        inside = [path for path in server.data.rglob("*") if not path.is_socket()]
        assert len(inside) > 8
        readable = {path.name for path in inside if _others_read(path, server.data)}
        assert readable == {"tls", "ca.pem", "server.pem"}
        assert not _mode(server.data) & stat.S_IROTH


@contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def _others_read(path: Path, data: Path) -> bool:
    """Whether they may, and get there from the folder that the registry was told to use."""
    above = [folder for folder in path.parents if folder == data or data in folder.parents]
    passable = all(_mode(folder) & stat.S_IXOTH for folder in above)
    return passable and bool(_mode(path) & stat.S_IROTH)


def test_the_authority_is_asked_for_the_names_on_the_command_line(tmp_path: Path) -> None:
    flags = ("--tls", "self-signed", "--tls-names", "other.localhost,registry.example.com")
    with UllageServer(tmp_path / "data", *flags) as server:
        trusting = ssl.create_default_context(cafile=tmp_path / "data" / "tls" / "ca.pem")
        for name in ("other.localhost", "registry.example.com", "localhost"):
            _connect(server, trusting, name).close()


def test_sighup_renews_a_certificate_of_our_own_that_is_about_to_expire(tmp_path: Path) -> None:
    """A server that runs for more than a year needs no restart for it."""
    with UllageServer(tmp_path / "data", "--tls", "self-signed") as server:
        folder = tmp_path / "data" / "tls"
        authority = (folder / "ca.pem").read_bytes()
        old = tmp_path / "old"
        shutil.copytree(folder, old)
        (old / "server.pem").unlink()
        self_signed(old, (), datetime.now(UTC) - CERTIFICATE_LIFETIME + timedelta(days=3))
        for name in ("server.pem", "server.key"):
            shutil.copy(old / name, folder / name)
        os.kill(server.pid, signal.SIGHUP)
        _wait_for_log(server, "new connections get it", 1)
        shown = x509.load_der_x509_certificate(_leaf(server))
        assert shown.not_valid_after_utc > datetime.now(UTC) + RENEW_BEFORE
        assert (folder / "ca.pem").read_bytes() == authority


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_tls_before_1_2_is_refused(server: UllageServer, version: ssl.TLSVersion) -> None:
    """RFC 8996."""
    context = _unverified()
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = version
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.maximum_version = version
    # Otherwise this side would not even offer it, and nothing would have been tried.
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        _connect(server, context)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_from_1_2_on_is_spoken(server: UllageServer, version: ssl.TLSVersion) -> None:
    context = _unverified()
    context.minimum_version = context.maximum_version = version
    with _connect(server, context) as connection:
        assert connection.version() == version.name.replace("v1_", "v1.")


@pytest.mark.parametrize(
    "said",
    [
        b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x00" * 4096,
        b"\x16\x03\x01\xff\xff" + b"A" * 100,
        b"",
    ],
)
def test_what_is_no_tls_gets_no_answer_and_disturbs_no_other_client(
    server: UllageServer, said: bytes
) -> None:
    """Plain HTTP and noise on the TLS port."""
    with socket.create_connection(_address(server), 10) as connection:
        connection.sendall(said)
        if not said:
            connection.shutdown(socket.SHUT_WR)
        assert not _rest(connection).startswith(b"HTTP/1.1 5")
    assert _get(server, "/v2/").status_code == 200


# --- files that cannot be used --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("certificate", "key", "blamed"),
    [
        ("missing.pem", "key.pem", "missing.pem"),
        ("cert.pem", "missing.pem", "missing.pem"),
        ("empty.pem", "key.pem", "empty.pem"),
        ("cert.pem", "empty.pem", "empty.pem"),
        ("noise.pem", "key.pem", "noise.pem"),
        ("cert.pem", "noise.pem", "noise.pem"),
        ("key.pem", "key.pem", "key.pem"),
        ("cert.pem", "second/server.key", "does not belong"),
        ("cert.pem", "first", "first"),
        ("cert.pem", "locked.pem", "locked.pem"),
    ],
)
def test_a_server_does_not_start_with_files_it_cannot_use_and_says_which(
    tmp_path: Path, pair: Pair, certificate: str, key: str, blamed: str
) -> None:
    """One line, exit code 1, and nothing was made yet: a password shown now would be lost."""
    (tmp_path / "empty.pem").write_bytes(b"")
    (tmp_path / "noise.pem").write_bytes(b"-----BEGIN CERTIFICATE-----\nnoise\n")
    (tmp_path / "locked.pem").write_bytes(_locked(pair.first.key.read_bytes()))
    done = run_ullage(
        "serve", "--listen", "127.0.0.1:0", "--auth", "--data", tmp_path / "data",
        "--tls-cert", tmp_path / certificate, "--tls-key", tmp_path / key, timeout_seconds=30,
    )  # fmt: skip
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("ERROR: tls_")
    assert blamed in done.stderr
    assert not (tmp_path / "data").exists()


# --- replacing it while it serves -----------------------------------------------------------------


def test_sighup_shows_new_connections_the_new_certificate_and_old_ones_finish(
    server: UllageServer, pair: Pair
) -> None:
    """A slow download goes on over the connection it has, and a keep-alive client never notices."""
    _push_blob(server)
    both = ssl.create_default_context(cafile=pair.first.authority)
    both.load_verify_locations(pair.second.authority)
    first, second = _der(pair.first), _der(pair.second)
    assert _leaf(server) == first
    address = _address(server)
    slow = http.client.HTTPSConnection(*address, context=both, timeout=30)
    with httpx.Client(verify=both, base_url=server.url, trust_env=False) as keeping:
        slow.request("GET", f"/v2/app/blobs/{BLOB_DIGEST}")
        answer = slow.getresponse()
        received = bytearray(answer.read(MIB))
        assert keeping.get("/v2/").status_code == 200

        pair.use(pair.second)
        os.kill(server.pid, signal.SIGHUP)
        _wait_for(lambda: _leaf(server) == second, server)
        _wait_for_log(server, "new connections get it", 1)
        # All new connections, not only some.
        assert {_leaf(server) for _ in range(20)} == {second}
        for _ in range(20):
            assert keeping.get("/v2/").status_code == 200

        while piece := answer.read(MIB):
            received += piece
    slow.close()
    assert bytes(received) == BLOB


@pytest.mark.parametrize("had", ["nothing", "a handshake", "an answer"])
def test_a_connection_from_before_the_change_is_served_after_it(
    server: UllageServer, pair: Pair, had: str
) -> None:
    """Whatever it has had: the listener that took it goes on until it has had an answer."""
    with ExitStack() as stack:
        connection = stack.enter_context(socket.create_connection(_address(server), 10))
        if had != "nothing":
            connection = stack.enter_context(_UNVERIFIED.wrap_socket(connection))
        if had == "an answer":
            assert b"200 OK" in _ask(connection)
        pair.use(pair.second)
        os.kill(server.pid, signal.SIGHUP)
        _wait_for_log(server, "new connections get it", 1)
        if had == "nothing":
            connection = stack.enter_context(_UNVERIFIED.wrap_socket(connection))
        answer = _ask(connection)
        assert b"200 OK" in answer
        # It says that this was the last one, so that no request goes to a connection about to end.
        assert b"connection: close" in answer.lower()
        assert connection.recv(1) == b""


def test_no_client_notices_a_change(server: UllageServer, pair: Pair) -> None:
    """Under a load of new connections and of old ones, no request fails over ten changes."""
    asked = 0
    over = threading.Event()

    def ask(keeping: bool) -> None:
        nonlocal asked
        with httpx.Client(verify=_UNVERIFIED, base_url=server.url, trust_env=False) as client:
            while not over.is_set():
                answer = client.get("/v2/") if keeping else _get(server, "/v2/")
                assert answer.status_code == 200
                asked += 1

    with ThreadPoolExecutor(4) as pool:
        askers = [pool.submit(ask, keeping) for keeping in (False, False, True, True)]
        try:
            for number in range(10):
                pair.use((pair.second, pair.first)[number % 2])
                os.kill(server.pid, signal.SIGHUP)
                _wait_for_log(server, "new connections get it", number + 1)
        finally:
            over.set()
        for asker in askers:
            asker.result()
    assert asked > 10


def test_a_replaced_listener_ends(tmp_path: Path, pair: Pair) -> None:
    """A server whose certificate changes every day must not gather listeners."""
    limits = ("--header-timeout", "1s", "--keep-alive", "1s")
    flags = ("--tls-cert", pair.certificate, "--tls-key", pair.key, *limits)
    with UllageServer(tmp_path / "data", *flags) as server:
        before = _threads(server)
        for number in range(3):
            pair.use((pair.second, pair.first)[number % 2])
            os.kill(server.pid, signal.SIGHUP)
            _wait_for_log(server, "new connections get it", number + 1)
        assert _threads(server) > before
        _wait_for(lambda: _threads(server) <= before, server)
        assert _get(server, "/v2/").status_code == 200
        server.assert_no_500()


def test_no_connection_waits_for_a_server_that_is_stopping(
    server: UllageServer,
) -> None:
    """A load balancer finds out at once, while what was begun still finishes."""
    _push_blob(server)
    slow = http.client.HTTPSConnection(*_address(server), context=_unverified(), timeout=30)
    slow.request("GET", f"/v2/app/blobs/{BLOB_DIGEST}")
    answer = slow.getresponse()
    received = bytearray(answer.read(MIB))
    with ThreadPoolExecutor(1) as pool:
        stopped = pool.submit(server.terminate)
        _wait_for(lambda: _refuses(server), server)
        while piece := answer.read(MIB):
            received += piece
        slow.close()
        assert stopped.result() == 0
    assert bytes(received) == BLOB


@pytest.mark.parametrize("broken", ["certificate", "key", "missing", "mismatch"])
def test_a_certificate_that_cannot_be_used_keeps_the_old_one_serving(
    server: UllageServer, pair: Pair, broken: str
) -> None:
    """And the log says so; mended, it is taken up by the next SIGHUP."""
    with httpx.Client(verify=_unverified(), base_url=server.url, trust_env=False) as keeping:
        assert keeping.get("/v2/").status_code == 200
        _break(pair, broken)
        os.kill(server.pid, signal.SIGHUP)
        _wait_for(lambda: "goes on with the old one" in server.log, server)
        assert {_leaf(server) for _ in range(10)} == {_der(pair.first)}
        assert keeping.get("/v2/").status_code == 200
        assert "Traceback" not in server.log

        pair.use(pair.second)
        os.kill(server.pid, signal.SIGHUP)
        _wait_for(lambda: _leaf(server) == _der(pair.second), server)


def test_sighup_without_tls_changes_nothing(tmp_path: Path) -> None:
    with UllageServer(tmp_path / "data") as server:
        os.kill(server.pid, signal.SIGHUP)
        _wait_for(lambda: "there is no certificate to read again" in server.log, server)
        assert _get(server, "/v2/").status_code == 200
        assert server.terminate() == 0


def test_a_server_stops_in_good_order_after_its_certificate_changed(
    server: UllageServer, pair: Pair
) -> None:
    """SIGTERM waits for the downloads of replaced listeners too."""
    _push_blob(server)
    slow = http.client.HTTPSConnection(*_address(server), context=_unverified(), timeout=30)
    slow.request("GET", f"/v2/app/blobs/{BLOB_DIGEST}")
    answer = slow.getresponse()
    received = bytearray(answer.read(MIB))
    pair.use(pair.second)
    os.kill(server.pid, signal.SIGHUP)
    _wait_for(lambda: _leaf(server) == _der(pair.second), server)
    stopped: list[int] = []
    stopping = threading.Thread(target=lambda: stopped.append(server.terminate()))
    stopping.start()
    while piece := answer.read(MIB):
        received += piece
    slow.close()
    stopping.join()
    assert (bytes(received) == BLOB, stopped) == (True, [0])


# --- inside ---------------------------------------------------------------------------------------


def _handshake(made: Certificates, name: str) -> ssl.SSLError | None:
    """What a strict client says of the certificate when it asks for `name`; None if it is good."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(made.certificate, made.key)
    trusting = ssl.create_default_context(cafile=made.authority)
    trusting.verify_flags |= ssl.VERIFY_X509_STRICT
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = serving.wrap_bio(to_server, to_client, server_side=True)
    client = trusting.wrap_bio(to_client, to_server, server_hostname=name)
    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as error:
                return error
    return None


def _certificate(made: Certificates) -> x509.Certificate:
    return x509.load_pem_x509_certificate(made.certificate.read_bytes())


def _authority(made: Certificates) -> x509.Certificate:
    return x509.load_pem_x509_certificate(made.authority.read_bytes())


def _contents(made: Certificates) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in made.key.parent.iterdir()}


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _der(made: Certificates) -> bytes:
    return ssl.PEM_cert_to_DER_cert(made.certificate.read_text())


def _locked(key: bytes) -> bytes:
    """The key, encrypted with a passphrase."""
    from cryptography.hazmat.primitives import serialization

    loaded = serialization.load_pem_private_key(key, None)
    return loaded.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"passphrase"),
    )


def _break(pair: Pair, broken: str) -> None:
    if broken == "certificate":
        pair.certificate.write_bytes(b"-----BEGIN CERTIFICATE-----\nnoise\n")
    elif broken == "key":
        pair.key.write_bytes(b"")
    elif broken == "missing":
        pair.certificate.unlink()
    else:
        pair.certificate.write_bytes(pair.second.certificate.read_bytes())


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


_UNVERIFIED = _unverified()


def _address(server: UllageServer) -> tuple[str, int]:
    host, _, port = server.host.rpartition(":")
    return host, int(port)


def _connect(
    server: UllageServer, context: ssl.SSLContext, name: str = "localhost"
) -> ssl.SSLSocket:
    """A connection over which the handshake is done. The caller closes it."""
    with socket.create_connection(_address(server), 10) as plain:
        return context.wrap_socket(plain, server_hostname=name)


def _leaf(server: UllageServer) -> bytes:
    """The certificate that a new connection is shown."""
    with _connect(server, _unverified()) as connection:
        shown = connection.getpeercert(binary_form=True)
    assert shown is not None
    return shown


def _get(server: UllageServer, path: str) -> httpx.Response:
    """One request over a connection of its own."""
    return httpx.get(server.url + path, verify=_UNVERIFIED, trust_env=False, timeout=30)


def _ask(connection: socket.socket) -> bytes:
    """One request, and the head and body of its answer."""
    connection.sendall(b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = connection.recv(65536)
    while answer.endswith(b"\r\n\r\n"):
        answer += connection.recv(65536)
    return answer


def _threads(server: UllageServer) -> int:
    return len(list(Path(f"/proc/{server.pid}/task").iterdir()))


def _rest(connection: socket.socket) -> bytes:
    """What the other side says until it hangs up."""
    said = b""
    try:
        while piece := connection.recv(65536):
            said += piece
    except ConnectionError:
        pass  # It hung up in haste, which is as good.
    return said


def _push_blob(server: UllageServer) -> None:
    url = f"{server.url}/v2/app/blobs/uploads/"
    pushed = httpx.post(
        url, params={"digest": BLOB_DIGEST}, content=BLOB, verify=_unverified(), trust_env=False
    )
    assert pushed.status_code == 201, pushed.text


def _refuses(server: UllageServer) -> bool:
    try:
        socket.create_connection(_address(server), 10).close()
    except ConnectionRefusedError:
        return True
    return False


def _wait_for_log(server: UllageServer, words: str, times: int) -> None:
    _wait_for(lambda: server.log.count(words) >= times, server)


def _wait_for(condition: Callable[[], bool], server: UllageServer) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, server.log
        time.sleep(0.01)
