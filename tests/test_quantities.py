"""Sizes and durations: one grammar for settings, the API and the command line."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.support.server import UllageServer
from ullage.accounts.audit_log import LONGEST_AGO, TimeInvalid, list_audit
from ullage.cli import table
from ullage.cli.local.settings import settings_of
from ullage.cli.main import run
from ullage.cli.shell.commands import parse
from ullage.cli.shell.errors import Failure
from ullage.config.loading import load_settings
from ullage.config.values import ConfigError
from ullage.oci.errors import ValueInvalid
from ullage.quantities import parse_duration, parse_size, parse_until
from ullage.registry.context import Registry

SIZES = {
    "0": 0, "65536": 65536, "1048576": 2**20, "10 ": 10, "1.0": 1, "007": 7,
    "1B": 1, "10B": 10, "10 B": 10,
    "1kB": 1000, "1KB": 1000, "10k": 10_000, "10K": 10_000, "4 M": 4 * 10**6, "10MB": 10**7,
    "10GB": 10**10, "10G": 10**10, "1.5GB": 15 * 10**8, "2TB": 2 * 10**12, "1PB": 10**15,
    "512KiB": 2**19, "512kiB": 2**19, "4MiB": 2**22, "4 MiB": 2**22, "4Mi": 2**22, "1GiB": 2**30,
    "1.5GiB": 3 * 2**29, "0.000001MB": 1, "2TiB": 2**41, "1PiB": 2**50, "8191.5PiB": 16383 * 2**49,
    "9223372036854775807": 2**63 - 1,
}  # fmt: skip
NO_SIZES = (
    *("", " ", "-1", "+1", "1.5", "0.1B", "1.0000001MB", ".5GB", "1.GB", "1,5GB", "1e6", "0x10"),
    *("1_000", "4mib", "10gb", "1mB", "4 MiB ", "4MiB ", " 4MiB", "4  MiB", "MiB", "GB", "B"),
    *("10EB", "4MiBB", "4MiB\n", "4MiB4", "\u0664", "\u0664MB", "9" * 20),
)  # fmt: skip
# Larger than 64 bits: as a setting, a limit that is none.
TOO_LARGE = ("9223372036854775808", "8192PiB", "999999999999999TiB")

DURATIONS = {
    "0s": timedelta(), "0d": timedelta(), "500ms": timedelta(milliseconds=500),
    "1ms": timedelta(milliseconds=1), "30s": timedelta(seconds=30), "15m": timedelta(minutes=15),
    "90m": timedelta(minutes=90), "24h": timedelta(days=1), "36h": timedelta(hours=36),
    "7d": timedelta(days=7), "007d": timedelta(days=7), "2d3h": timedelta(days=2, hours=3),
    "1h30m": timedelta(minutes=90), "2d3h6m": timedelta(days=2, hours=3, minutes=6),
    "1h30m5s250ms": timedelta(hours=1, minutes=30, seconds=5, milliseconds=250),
    "999999999ms": timedelta(milliseconds=999_999_999), "36500d": timedelta(days=36500),
    "876000h": timedelta(days=36500),
}  # fmt: skip
MORE_THAN_A_CENTURY = ("36501d", "876001h", "36500d1ms")
NO_DURATIONS = (
    *("", " ", "0", "7", "30", "d", "-7d", "+7d", " 7d", "7d ", "7 d", "1 h", "7D", "1.5d", "1.5h"),
    *("1e9d", "7d7d", "6m2d", "5ms1s", "1w", "1y", "1us", "7d\n", "2d 3h", "\u0667d", "\u0661s"),
    *("999999d", "999999999d", "9999999999999999999d", *MORE_THAN_A_CENTURY),
)


@pytest.mark.parametrize("text", SIZES)
def test_a_size(text: str) -> None:
    assert parse_size(text) == SIZES[text]


@pytest.mark.parametrize("text", [*NO_SIZES, *TOO_LARGE])
def test_no_size(text: str) -> None:
    with pytest.raises(ValueInvalid):
        parse_size(text)


@pytest.mark.parametrize("text", DURATIONS)
def test_a_duration(text: str) -> None:
    assert parse_duration(text) == DURATIONS[text]


@pytest.mark.parametrize("text", NO_DURATIONS)
def test_no_duration(text: str) -> None:
    """acr-cli#83: `--ago 999999d` deleted everything. It never wraps round, it is an error."""
    with pytest.raises(ValueInvalid):
        parse_duration(text)


NOW = datetime(2027, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize("text", DURATIONS)
def test_an_end_is_so_long_from_now(text: str) -> None:
    assert parse_until(text, NOW) == NOW + DURATIONS[text]


_SERVE = next(command for command in table.local() if command.words == ("serve",))

# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", SIZES)
def test_a_setting_takes_each_size(text: str) -> None:
    for given in (
        load_settings({"min_free": text}, {}),
        load_settings({}, {"ULLAGE_MIN_FREE": text}),
        settings_of(parse(_SERVE, ["--min-free", text])),
    ):
        assert given.min_free == SIZES[text]


@pytest.mark.parametrize("text", DURATIONS)
def test_a_setting_takes_each_duration(text: str) -> None:
    for given in (
        load_settings({"read_grace": text}, {}),
        load_settings({}, {"ULLAGE_READ_GRACE": text}),
        settings_of(parse(_SERVE, ["--read-grace", text])),
    ):
        assert given.read_grace == DURATIONS[text]


def test_a_setting_may_be_larger_than_any_store() -> None:
    assert load_settings({"max_manifest": TOO_LARGE[0]}, {}).max_manifest == 2**63
    assert load_settings({"min_free": TOO_LARGE[2]}, {}).min_free == (10**15 - 1) * 2**40


@pytest.mark.parametrize(
    ("name", "text"),
    [*(("min_free", each) for each in NO_SIZES), *(("read_grace", each) for each in NO_DURATIONS)],
)
def test_a_setting_that_is_neither_is_refused_with_an_example(name: str, text: str) -> None:
    flag = name.replace("_", "-")
    with pytest.raises(
        ConfigError, match=rf"(?s)^--{flag}: .* - expected a (size|duration) such as"
    ):
        load_settings({name: text}, {})
    with pytest.raises(Failure) as refused:
        settings_of(parse(_SERVE, [f"--{flag}={text}"]))
    assert refused.value.code == 2


# --- API and command line -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UllageServer]:
    with UllageServer(tmp_path_factory.mktemp("quantities") / "data") as server:
        yield server
        server.assert_no_500()


@pytest.mark.thorough
def test_the_api_takes_the_same(server: UllageServer) -> None:
    """The policy that was set is answered with bytes, and with the largest unit that fits."""
    with httpx.Client(base_url=server.url, timeout=30) as client:

        def put(document: dict[str, Any]) -> httpx.Response:
            return client.put("/api/v1/policies/retention", json={"rules": [], **document})

        def rule(age: str) -> dict[str, Any]:
            return {"rules": [{"name": "old", "untagged": True, "older_than": age}]}

        for text, size in SIZES.items():
            assert put({"max_bytes": text}).json()["max_bytes"] == size, text
        for text, duration in DURATIONS.items():
            answer = put(rule(text)).json()
            assert parse_duration(answer["rules"][0]["older_than"]) == duration, text
        for text in (*NO_SIZES, *TOO_LARGE):
            assert put({"max_bytes": text}).status_code == 400, text
            assert client.post("/api/v1/suggest", json={"free": text}).status_code == 400, text
        for text in NO_DURATIONS:
            assert put(rule(text)).status_code == 400, text
            tried = client.post("/api/v1/retention/test", json={"rules": [], "since": text})
            assert tried.status_code == 400, text


@pytest.mark.thorough
def test_a_command_hands_on_what_was_typed(
    server: UllageServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the registry, whatever its version, is the one that reads it."""
    monkeypatch.setenv("ULLAGE_REGISTRY", server.url)

    def code(*line: str) -> int:
        found = run(line)
        capsys.readouterr()
        return found

    for text in SIZES:
        assert code("purge", "--untagged-only", "--dry-run", f"--max-bytes={text}") == 0, text
    for text in NO_SIZES:
        assert code("purge", "--untagged-only", "--dry-run", f"--max-bytes={text}") == 1, text


def test_the_audit_log_reads_ages_alike(registry: Registry) -> None:
    for text in DURATIONS:
        assert list_audit(registry, since=text) == []
    for text in set(NO_DURATIONS).difference(MORE_THAN_A_CENTURY):
        with pytest.raises(TimeInvalid):
            list_audit(registry, since=text)
    assert list_audit(registry, since=f"{LONGEST_AGO.days}d") == []
