"""Which client a request comes from where proxies are in front: RFC 7239, X-Forwarded-For (B7)."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.access.house import House, basic
from tests.support.nginx import Nginx
from ullage.accounts.throttle import FREE_PER_ACCOUNT
from ullage.server.http.access_log import FLUSH_SECONDS
from ullage.server.http.proxies import MAX_HOPS, Proxies
from ullage.server.http.request import Request

pytestmark = pytest.mark.thorough

PROXY, STRANGER = "10.0.0.1", "9.9.9.9"
TRUSTED = ("10.0.0.0/8", "fd00::/8")


def located(
    *headers: tuple[str, str], peer: str | None = PROXY, trusted: Sequence[str] = TRUSTED
) -> tuple[str | None, str | None]:
    """The address and the scheme that a request has afterwards."""
    scope: dict[str, Any] = {
        "type": "http",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers],
        "client": None if peer is None else (peer, 1234),
    }
    Proxies(trusted).locate(Request(scope, _nothing))
    client = scope["client"]
    return client[0] if client else None, scope.get("ullage.scheme")


async def _nothing() -> dict[str, Any]:
    raise AssertionError


def by_x(*values: str, **more: Any) -> str | None:
    return located(*(("X-Forwarded-For", value) for value in values), **more)[0]


def by_forwarded(*values: str, **more: Any) -> str | None:
    return located(*(("Forwarded", value) for value in values), **more)[0]


@pytest.mark.parametrize(
    ("values", "client"),
    [
        (["192.0.2.7"], "192.0.2.7"),
        (["192.0.2.7:4711"], "192.0.2.7"),
        (["2001:db8::7"], "2001:db8::7"),
        (["[2001:db8::7]"], "2001:db8::7"),
        (["[2001:DB8:0::7]:4711"], "2001:db8::7"),
        (["::ffff:192.0.2.7"], "192.0.2.7"),
        # What stands before the last hop that is not trusted, the client wrote itself.
        (["6.6.6.6, 192.0.2.7"], "192.0.2.7"),
        (["nonsense, 192.0.2.7"], "192.0.2.7"),
        (["6.6.6.6", "192.0.2.7"], "192.0.2.7"),
        # Trusted proxies behind one another; the last one is the peer.
        (["6.6.6.6, 192.0.2.7, 10.0.0.2"], "192.0.2.7"),
        (["192.0.2.7, fd00::1", "10.0.0.3"], "192.0.2.7"),
        (["192.0.2.7 ,\t10.9.9.9 , , 10.0.0.2:80,"], "192.0.2.7"),
        # A client on a trusted network: the first of them.
        (["10.0.0.8, 10.0.0.7"], "10.0.0.8"),
    ],
)
def test_the_last_hop_that_is_not_trusted_is_the_client(values: list[str], client: str) -> None:
    assert by_x(*values) == client


@pytest.mark.parametrize(
    "value",
    [
        "",
        ",",
        "unknown",
        "_hidden",
        "localhost",
        "192.0.2.7;",
        "192.0.2.007",
        "192.0.2",
        "192.0.2.7:port",
        "[2001:db8::7",
        "2001:db8::7]:80",
        "fe80::1%eth0",
        "fe80::1%\x1b[31m",
        '"192.0.2.7"',
        "unix:",
        "192.0.2.7, nonsense, 10.0.0.2",
        ", ".join(["192.0.2.7", *["10.0.0.2"] * MAX_HOPS]),
    ],
)
def test_a_malformed_header_leaves_the_peers_address(value: str) -> None:
    assert by_x(value) == PROXY


@pytest.mark.parametrize(
    ("values", "client"),
    [
        (["for=192.0.2.7"], "192.0.2.7"),
        (["FOR=192.0.2.7;Proto=https"], "192.0.2.7"),
        (['for="192.0.2.7:47011"; by=10.0.0.1'], "192.0.2.7"),
        (['for="[2001:db8::7]"'], "2001:db8::7"),
        (['for="[2001:db8::7]:_port"'], "2001:db8::7"),
        ([r'for="192\.0.2.7"'], "192.0.2.7"),
        (["for=6.6.6.6, for=192.0.2.7, for=10.0.0.2"], "192.0.2.7"),
        (["for=unknown, for=192.0.2.7"], "192.0.2.7"),
        (["for=6.6.6.6", "for=192.0.2.7;host=x", "for=10.0.0.2"], "192.0.2.7"),
        (['for=192.0.2.7;host="a,for=6.6.6.6;b"'], "192.0.2.7"),
        ([" , for=192.0.2.7 ,"], "192.0.2.7"),
    ],
)
def test_forwarded_is_read_as_rfc_7239_has_it(values: list[str], client: str) -> None:
    assert by_forwarded(*values) == client


@pytest.mark.parametrize(
    "value",
    [
        "",
        "192.0.2.7",
        "for=unknown",
        "for=_SEVKISEK",
        "for=",
        'for="192.0.2.7',
        'for="192.0.2.7"x',
        "for=192.0.2.7:80",
        "for=192.0.2.7;for=6.6.6.6",
        "for =192.0.2.7",
        "proto=https",
        # What a client writes must not swallow what the proxy adds.
        'for=6.6.6.6;x=", for=192.0.2.7',
        'for=6.6.6.6;x=", for="192.0.2.7:80"',
        "for=192.0.2.7" + ";" * 10_000,
    ],
)
def test_a_malformed_forwarded_leaves_the_peers_address(value: str) -> None:
    assert by_forwarded(value) == PROXY


def test_of_two_headers_that_disagree_none_is_believed() -> None:
    """A proxy writes one of them, and may pass the other one on as its client wrote it."""
    one, other = ("X-Forwarded-For", "192.0.2.7"), ("Forwarded", "for=192.0.2.8")
    assert located(one, other)[0] == PROXY
    assert located(one, ("Forwarded", "for=6.6.6.6, for=192.0.2.7"))[0] == "192.0.2.7"
    assert located(one, ("Forwarded", "nonsense"))[0] == PROXY


@pytest.mark.parametrize("peer", [STRANGER, "11.0.0.1", "::1", "testclient", None])
def test_no_header_of_an_untrusted_peer_is_believed(peer: str | None) -> None:
    headers = (
        ("X-Forwarded-For", "192.0.2.7"),
        ("Forwarded", "for=192.0.2.7;proto=http"),
        ("X-Forwarded-Proto", "http"),
    )
    assert located(*headers, peer=peer) == (peer, None)
    assert located(*headers, peer=PROXY, trusted=()) == (PROXY, None)


def test_a_proxy_may_ask_in_any_form_of_its_address_or_at_a_unix_socket() -> None:
    assert by_x("192.0.2.7", peer="::ffff:10.0.0.1") == "192.0.2.7"
    assert by_x("192.0.2.7", peer="fd00::1%eth0") == "192.0.2.7"
    for peer in (None, ""):
        assert by_x("192.0.2.7", peer=peer, trusted=("unix:",)) == "192.0.2.7"
        assert by_x("192.0.2.7", peer=peer, trusted=TRUSTED) == peer
    # Between two proxies of one machine (nginx's $remote_addr).
    assert by_x("192.0.2.7, unix:", trusted=(PROXY, "unix:")) == "192.0.2.7"
    assert by_x("unix:", trusted=(PROXY, "unix:")) == PROXY


@pytest.mark.parametrize(
    ("addresses", "spoken", "scheme"),
    [
        ("192.0.2.7", ["https"], "https"),
        ("192.0.2.7", ["http"], "http"),
        ("192.0.2.7", ["HTTPS"], "https"),
        ("192.0.2.7", ["ftp"], None),
        # The client's own word comes first.
        ("192.0.2.7", ["http, https"], "https"),
        ("192.0.2.7", ["http", "https"], "https"),
        # Each of two proxies adds its own; or the second one passes on what the first one wrote.
        ("192.0.2.7, 10.0.0.2", ["https, http"], "https"),
        ("192.0.2.7, 10.0.0.2", ["https"], "https"),
        ("nonsense", ["https"], "https"),
        ("", ["http"], "http"),
    ],
)
def test_a_trusted_proxy_says_what_its_client_spoke(
    addresses: str, spoken: list[str], scheme: str | None
) -> None:
    """B8: both ways; from another peer X-Forwarded-Proto only makes http https (test_challenge)."""
    headers = [("X-Forwarded-Proto", value) for value in spoken]
    assert located(("X-Forwarded-For", addresses), *headers)[1] == scheme
    if addresses == "":
        assert located(*headers)[1] == scheme


def test_forwarded_says_what_its_client_spoke() -> None:
    value = "for=6.6.6.6;proto=http, for=192.0.2.7;proto=https, for=10.0.0.2;proto=http"
    assert located(("Forwarded", value)) == ("192.0.2.7", "https")


def test_a_proxy_that_is_not_named_is_one_line_of_warning(caplog: pytest.LogCaptureFixture) -> None:
    """An operator learns of the setting; a stranger's header says nothing."""
    proxies = Proxies()
    for peer in (STRANGER, "172.17.0.1", "127.0.0.1", "172.17.0.1"):
        scope = {
            "type": "http",
            "headers": [(b"x-forwarded-for", b"192.0.2.7")],
            "client": (peer, 1),
        }
        proxies.locate(Request(scope, _nothing))
        assert len(caplog.records) == (peer != STRANGER)
    message = caplog.records[0].getMessage()
    assert "--trusted-proxies 172.17.0.1" in message
    assert "192.0.2.7" not in message


# --- what an address is used for ------------------------------------------------------------------


class Behind(House):
    """A registry with accounts whose proxy is 127.0.0.1."""

    def ask(
        self,
        path: str,
        client: str,
        headers: dict[str, str] | None = None,
        *,
        source: str = "127.0.0.1",
        method: str = "GET",
        port: int | None = None,
    ) -> http.client.HTTPResponse:
        host, own = self.server.host.split(":")
        connection = http.client.HTTPConnection(
            host, port or int(own), timeout=60, source_address=(source, 0)
        )
        forwarded = {"X-Forwarded-For": client} if client else {}
        connection.request(method, path, None, {**forwarded, **(headers or {})})
        response = connection.getresponse()
        response.read()
        connection.close()
        return response

    def address_of(self, response: http.client.HTTPResponse) -> str:
        """The address in the request's log line."""
        wanted = response.headers["x-request-id"]
        time.sleep(FLUSH_SECONDS * 3)
        lines = [json.loads(line) for line in self.server.log.splitlines() if line.startswith("{")]
        [found] = [line["address"] for line in lines if line["request_id"] == wanted]
        return str(found)


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    data = tmp_path_factory.mktemp("behind") / "data"
    with Behind(data, "--trusted-proxies", "127.0.0.1") as behind:
        yield behind


def test_the_access_log_has_the_clients_address(behind: Behind) -> None:
    assert behind.address_of(behind.ask("/v2/", "6.6.6.6, 192.0.2.7")) == "192.0.2.7"
    assert behind.address_of(behind.ask("/v2/", "nonsense")) == "127.0.0.1"
    assert behind.address_of(behind.ask("/v2/", "192.0.2.7", source="127.0.0.2")) == "127.0.0.2"


def test_wrong_passwords_slow_down_the_client_that_sends_them(behind: Behind) -> None:
    """B7: through one proxy, at both endpoints that take passwords."""
    for path in ("/v2/", "/oauth2/token"):
        name = f"somebody-{len(path)}"
        for _ in range(FREE_PER_ACCOUNT + 1):
            behind.ask(path, "192.0.2.66", basic(name, "wrong"))
        assert behind.ask(path, "192.0.2.66", basic(name, "wrong")).status == 429
        assert behind.ask(path, "192.0.2.67", basic(name, "wrong")).status == 401
        # A stranger cannot choose whom it slows down.
        assert behind.ask(path, "192.0.2.66", basic(name, "x"), source="127.0.0.2").status == 401


def test_the_audit_log_has_the_clients_address(behind: Behind) -> None:
    behind.push_image("team/app", "v1", b"a layer")
    gone = behind.ask(
        "/v2/team/app/manifests/v1", "192.0.2.7", behind.basic("admin"), method="DELETE"
    )
    assert gone.status == 202
    [entry] = [
        entry
        for entry in behind.manage("audit list")
        if entry["request_id"] == gone.headers["x-request-id"]
    ]
    assert entry["address"] == "192.0.2.7"


def test_the_realm_is_what_the_proxys_client_spoke(behind: Behind) -> None:
    """B8."""
    for spoken, realm in (("https", "https://"), ("http", "http://")):
        headers = {"X-Forwarded-Proto": spoken}
        challenge = behind.ask("/v2/", "192.0.2.7", headers).headers["www-authenticate"]
        assert challenge.startswith(f'Bearer realm="{realm}')


def test_behind_nginx_clients_are_told_apart(behind: Behind, tmp_path: Path) -> None:
    """The real thing, with the two lines that every guide to nginx has."""
    with Nginx(
        tmp_path / "nginx",
        behind.server.host,
        "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for",
        "proxy_set_header X-Forwarded-Proto https",
    ) as nginx:
        answer = behind.ask("/v2/", "6.6.6.6", source="127.0.0.7", port=nginx.port)
        assert answer.headers["www-authenticate"].startswith('Bearer realm="https://127.0.0.1:')
        assert behind.address_of(answer) == "127.0.0.7"
        # A client that guesses with another header is counted, too.
        for number in range(FREE_PER_ACCOUNT + 2):
            forged = {"Forwarded": f"for=192.0.2.{number}"} | basic("anna", "wrong")
            answer = behind.ask("/v2/", "", forged, source="127.0.0.7", port=nginx.port)
        assert answer.status == 429
        wrong = basic("anna", "wrong")
        assert behind.ask("/v2/", "", wrong, source="127.0.0.8", port=nginx.port).status == 401
