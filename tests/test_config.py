"""Settings: where each comes from, what it may be, and what is said when it cannot be used."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from ullage.config.loading import load_settings
from ullage.config.settings import SETTINGS, Settings
from ullage.config.values import ConfigError, Listen, parse_listen, parse_number, parse_path
from ullage.oci.sparse import Sparse, SparseRules
from ullage.wiring.serving import warn_of_plain_passwords


def load(
    flags: Mapping[str, str | None] | None = None,
    environment: Mapping[str, str] | None = None,
    config: Path | None = None,
) -> Settings:
    return load_settings(flags or {}, environment or {}, config)


# --- where they come from -------------------------------------------------------------------------


def test_everything_has_a_default() -> None:
    settings = load()
    assert settings.listen == Listen("127.0.0.1", 5000)
    assert settings.data == Path.cwd() / "ullage-data"
    assert settings.database_url == f"sqlite:///{settings.data / 'ullage.db'}"
    assert settings.storage_url == f"file:{settings.data}"
    assert settings.max_manifest == 4 * 1024 * 1024
    assert settings.upload_idle == timedelta(hours=24)


def test_a_flag_comes_before_a_variable_before_the_file(tmp_path: Path) -> None:
    config = tmp_path / "ullage.toml"
    config.write_text('threads = 1\nmax_page = "1"\nmax_name = 1\nread_grace = "1s"\n')
    environment = {"ULLAGE_THREADS": "2", "ULLAGE_MAX_PAGE": "2"}
    settings = load({"threads": "3", "max_page": None}, environment, config)
    found = (settings.threads, settings.max_page, settings.max_name, settings.max_uploads)
    assert found == (3, 2, 1, 5000)
    assert settings.read_grace == timedelta(seconds=1)


def test_the_file_may_be_named_by_a_variable(tmp_path: Path) -> None:
    config, other = tmp_path / "a.toml", tmp_path / "b.toml"
    config.write_text("threads = 5")
    other.write_text("threads = 6")
    environment = {"ULLAGE_CONFIG": str(config), "PATH": "/bin", "ULLAGE_REQUIRE_CLIENTS": "1"}
    assert load(environment=environment).threads == 5
    assert load(environment=environment, config=other).threads == 6


def test_every_setting_has_a_field_a_flag_and_a_variable() -> None:
    assert [setting.name for setting in SETTINGS] == list(Settings.__slots__)
    for setting in SETTINGS:
        assert setting.flag == f"--{setting.name.replace('_', '-')}"
        assert setting.variable == f"ULLAGE_{setting.name.upper()}"
        assert setting.help.endswith(".")
        assert setting.kind


# --- what they may be -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "listen", "loopback"),
    [
        ("127.0.0.1:5000", Listen("127.0.0.1", 5000), True),
        ("127.8.8.8:1", Listen("127.8.8.8", 1), True),
        ("localhost:0", Listen("127.0.0.1", 0), True),
        ("[::1]:65535", Listen("::1", 65535), True),
        (":5000", Listen("0.0.0.0", 5000), False),
        ("0.0.0.0:5000", Listen("0.0.0.0", 5000), False),
        ("[::]:5000", Listen("::", 5000), False),
        ("192.0.2.1:5000", Listen("192.0.2.1", 5000), False),
        ("example.com:5000", Listen("example.com", 5000), False),
        ("127.0.0.1.example.com:5000", Listen("127.0.0.1.example.com", 5000), False),
    ],
)
def test_an_address(text: str, listen: Listen, loopback: bool) -> None:
    """Without accounts only addresses that nobody else reaches are served."""
    assert parse_listen("listen", text) == listen
    assert listen.loopback is loopback
    if loopback:
        assert load({"listen": text}).listen == listen
    else:
        with pytest.raises(ConfigError, match=r"^listen: .*every client .* can push and delete"):
            load({"listen": text})


@pytest.mark.parametrize(
    "text", ["", "5000", "127.0.0.1", "127.0.0.1:", "::1:5000", "[::1]", "a:65536", "a:b", "a b:1"]
)
def test_no_address(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^listen: .* - expected address:port, such as 127"):
        parse_listen("listen", text)


def test_an_address_is_shown_as_it_is_written() -> None:
    for text in ("127.0.0.1:5000", "[::1]:5000"):
        assert str(parse_listen("listen", text)) == text


@pytest.mark.parametrize("text", ["", "-1", "1.0", "1e3", "0x1", "1_0", " 1", "\u0661", "9" * 13])
def test_no_number(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^threads: .* - expected a whole number$"):
        parse_number("threads", text)


def test_a_folder_is_where_it_was_named_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert parse_path("data", "/srv/ullage") == Path("/srv/ullage")
    assert parse_path("data", "here") == Path.cwd() / "here"
    assert parse_path("data", "~/ullage") == Path("/home/somebody/ullage")


def test_proxies_are_addresses_and_networks_from_any_source(tmp_path: Path) -> None:
    config = tmp_path / "ullage.toml"
    config.write_text('trusted_proxies = ["192.0.2.1", "unix:"]')
    by_file = load(config=config).trusted_proxies
    assert by_file == ("192.0.2.1/32", "unix:")
    by_variable = load(environment={"ULLAGE_TRUSTED_PROXIES": "10.0.0.0/8"}).trusted_proxies
    assert by_variable == ("10.0.0.0/8",)
    by_flag = load({"trusted_proxies": "::1, 2001:db8::/32"}).trusted_proxies
    assert by_flag == ("::1/128", "2001:db8::/32")
    assert load().trusted_proxies == ()


@pytest.mark.parametrize(
    "text", ["proxy.example", "10.0.0.1/8", "10.0.0.0/33", "[::1]", "1.2.3.4:80"]
)
def test_no_proxies(text: str) -> None:
    """A mistyped network must not trust more than was meant, or less."""
    with pytest.raises(ConfigError, match=r"^--trusted-proxies: .* - expected addresses and netw"):
        load({"trusted_proxies": text})


def test_where_nginx_finds_the_files_comes_from_any_source(tmp_path: Path) -> None:
    trusting = {"trusted_proxies": "127.0.0.1"}
    config = tmp_path / "ullage.toml"
    config.write_text('send_file = "nginx:/a/b-1/"')
    assert load(trusting, config=config).send_file == "/a/b-1/"
    assert load({**trusting, "send_file": "nginx:/ullage-files/"}).send_file == "/ullage-files/"
    assert load().send_file == ""


@pytest.mark.parametrize(
    "text",
    ["/files/", "nginx:", "nginx:/", "nginx:/files", "nginx:/../", "apache:/files/", "nginx:/a b/"],
)
def test_no_place_for_files(text: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^--send-file: .* - expected nginx: and a location, suc"
    ):
        load({"send_file": text})


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, "name it with --trusted-proxies"),
        ({"trusted_proxies": "127.0.0.1", "storage": "memory:"}, "nginx sends files, and memory:"),
        ({"trusted_proxies": "127.0.0.1", "read_grace": "999ms"}, "at least 1s after a deletion"),
    ],
)
def test_files_that_nobody_could_send(more: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load({"send_file": "nginx:/files/", **more})


@pytest.mark.parametrize("text", ["", "a\0b", "~no-such-user-anywhere/x"])
def test_no_folder(text: str) -> None:
    """An empty variable, as in `ULLAGE_DATA=$UNSET`, is not the current folder."""
    with pytest.raises(ConfigError, match=r"^data: .* - expected a folder, such as ./ullage-data"):
        parse_path("data", text)


def test_sparse_manifests_are_allowed_by_repository() -> None:
    """The longest pattern holds, whatever the order; a prefix is no name."""
    assert load().sparse_indexes == SparseRules()
    rules = load({"sparse_indexes": "m/a/*=deny, m/*=platforms, allow, m/a=deny"}).sparse_indexes
    names = ("other", "m", "m/b", "m/a", "m/a/b", "m/ab")
    assert [rules.of(name) for name in names] == [
        Sparse.ALLOW,
        Sparse.ALLOW,
        Sparse.PLATFORMS,
        Sparse.DENY,
        Sparse.DENY,
        Sparse.PLATFORMS,
    ]


@pytest.mark.parametrize("text", ["Deny", "yes", "app=", "=allow", "A=allow", "a*=deny", "*=deny"])
def test_a_rule_for_sparse_manifests_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected deny, platforms or allow"):
        load({"sparse_indexes": text})


# --- what is said ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "environment", "file", "expected"),
    [
        ({"threads": "many"}, {}, "", "--threads: 'many' - expected a whole number"),
        ({}, {"ULLAGE_LEASE": "soon"}, "", "ULLAGE_LEASE: 'soon' - expected a duration"),
        ({}, {}, 'max_manifest = "big"', "max_manifest in {file}: 'big' - expected a size"),
        ({}, {}, "lease = 3.5", "lease in {file}: 3.5 - expected a string or a whole number"),
        ({}, {}, "threads = true", "threads in {file}: 'true' - expected a whole number"),
        ({}, {}, "[listen]\nport = 1", "listen in {file}: {{'port': 1}} - expected a string or"),
        ({}, {}, "thread = 1", "thread in {file}: no such setting; did you mean threads?"),
        (
            {},
            {"ULLAGE_THREAD": "1"},
            "",
            "ULLAGE_THREAD: no such setting; did you mean ULLAGE_THREADS?",
        ),
        ({}, {}, "threads =", "configuration file {file}: Invalid value"),
        ({}, {}, "threads = 1\nthreads = 2", "configuration file {file}: Cannot overwrite a value"),
        (
            {"sparse_indexes": "app=some"},
            {},
            "",
            "--sparse-indexes: 'app=some' - expected deny, platforms or allow, or with rules",
        ),
        ({"threads": "0"}, {}, "", "threads: 0 - expected at least 1"),
        ({"max_page": "0"}, {}, "", "max_page: 0 - expected at least 1"),
        ({"max_manifest": "0MiB"}, {}, "", "max_manifest: 0 - expected at least 1"),
        ({"header_timeout": "0s"}, {}, "", "header_timeout: '0s' - expected more than no time"),
        ({"lease": "0h"}, {}, "", "lease: '0s' - expected more than no time at all"),
    ],
)
def test_an_error_names_the_setting_its_value_and_what_was_expected(
    tmp_path: Path,
    flags: dict[str, str | None],
    environment: dict[str, str],
    file: str,
    expected: str,
) -> None:
    """And where it came from: a misspelt setting is never taken for the default."""
    config = tmp_path / "ullage.toml"
    config.write_text(file)
    with pytest.raises(ConfigError) as caught:
        load(flags, environment, config)
    assert str(caught.value).startswith(expected.format(file=config))


@pytest.mark.parametrize("content", [None, b"\xff"], ids=["missing", "not UTF-8"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    config = tmp_path / "ullage.toml"
    if content is not None:
        config.write_bytes(content)
    with pytest.raises(ConfigError, match=f"^configuration file {config}: "):
        load(config=config)


@pytest.mark.parametrize(
    ("listen", "more", "warns"),
    [
        ("0.0.0.0:5000", {"auth": "true"}, True),
        ("192.0.2.1:5000", {"auth": "true", "external_url": "http://registry.example"}, True),
        ("0.0.0.0:5000", {"auth": "true", "external_url": "https://registry.example"}, False),
        ("0.0.0.0:5000", {"auth": "true", "trusted_proxies": "10.0.0.0/8"}, False),
        ("127.0.0.1:5000", {"auth": "true"}, False),
        ("127.0.0.1:5000", {}, False),
    ],
)
def test_passwords_that_are_readable_on_the_way_are_one_line_at_the_start(
    caplog: pytest.LogCaptureFixture, listen: str, more: dict[str, str], warns: bool
) -> None:
    """RFC 7617, section 4: Basic is clear text without TLS."""
    warn_of_plain_passwords(load({"listen": listen, **more}))
    assert len(caplog.records) == warns
    if warns:
        message = caplog.records[0].getMessage()
        assert listen in message
        assert "--tls" in message
        assert "\n" not in message
