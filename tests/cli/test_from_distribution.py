"""Coming from registry:2: every key becomes a setting, or a remark that says why none
(docs/guides/running.md)."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import Ullage
from tests.support.server import UllageServer, run_ullage
from ullage.blobs.azure.options import parse_azure_url
from ullage.blobs.s3.options import parse_gs_url, parse_s3_url
from ullage.cli.commands.distribution_variables import distribution_variables
from ullage.cli.commands.from_distribution import KEYS, key_of
from ullage.config.loading import load_settings
from ullage.config.settings import SETTINGS

# What the image registry:2 comes with, and what people add to it.
USUAL = """
version: 0.1
log:
  fields:
    service: registry
storage:
  cache:
    blobdescriptor: inmemory
  filesystem:
    rootdirectory: /var/lib/registry
  delete:
    enabled: true
  maintenance:
    uploadpurging:
      enabled: true
      age: 168h
auth:
  htpasswd:
    realm: basic-realm
    path: /auth/htpasswd
http:
  addr: :5000
  host: https://registry.example.com/
  draintimeout: 1m30s
  secret: asecret
  debug:
    addr: :5001
    prometheus:
      enabled: true
  headers:
    X-Content-Type-Options: [nosniff]
  tls:
    certificate: /certs/domain.crt
    key: /certs/domain.key
catalog:
  maxentries: 500
health:
  storagedriver:
    enabled: true
"""
# The keys of distribution's configuration.go, as its own page lists them, and those of drivers.
_THEIRS = """
version log.accesslog.disabled log.level log.formatter log.fields.service log.hooks
log.reportcaller loglevel reporting.bugsnag.apikey reporting.newrelic.licensekey
storage.filesystem.rootdirectory storage.filesystem.maxthreads
storage.azure.accountname storage.azure.accountkey storage.azure.container
storage.azure.rootdirectory storage.azure.realm storage.azure.credentials.type
storage.azure.credentials.clientid storage.azure.credentials.tenantid
storage.azure.credentials.secret storage.azure.max_retries storage.azure.retry_delay
storage.gcs.bucket storage.gcs.keyfile storage.gcs.credentials.type storage.gcs.rootdirectory
storage.gcs.chunksize storage.s3.accesskey storage.s3.secretkey storage.s3.region
storage.s3.regionendpoint storage.s3.forcepathstyle storage.s3.accelerate storage.s3.bucket
storage.s3.encrypt storage.s3.keyid storage.s3.secure storage.s3.v4auth storage.s3.chunksize
storage.s3.multipartcopychunksize storage.s3.multipartcopymaxconcurrency
storage.s3.multipartcopythresholdsize storage.s3.rootdirectory storage.s3.usedualstack
storage.s3.loglevel storage.s3.storageclass storage.s3.objectacl storage.s3.skipverify
storage.inmemory storage.tag.concurrencylimit storage.delete.enabled storage.redirect.disable
storage.cache.blobdescriptor storage.cache.blobdescriptorsize storage.cache.layerinfo
storage.maintenance.uploadpurging.enabled storage.maintenance.uploadpurging.age
storage.maintenance.uploadpurging.interval storage.maintenance.uploadpurging.dryrun
storage.maintenance.readonly.enabled auth.silly.realm auth.silly.service auth.token.autoredirect
auth.token.realm auth.token.service auth.token.issuer auth.token.rootcertbundle auth.token.jwks
auth.token.signingalgorithms auth.htpasswd.realm auth.htpasswd.path middleware.registry
middleware.repository middleware.storage http.addr http.net http.prefix http.host http.secret
http.relativeurls http.draintimeout http.tls.certificate http.tls.key http.tls.clientcas
http.tls.clientauth http.tls.minimumtls http.tls.ciphersuites http.tls.letsencrypt.cachefile
http.tls.letsencrypt.email http.tls.letsencrypt.hosts http.tls.letsencrypt.directoryurl
http.debug.addr http.debug.prometheus.enabled http.debug.prometheus.path
http.headers.X-Content-Type-Options http.http2.disabled http.h2c.enabled
notifications.events.includereferences notifications.endpoints redis.addr redis.addrs
redis.password redis.db redis.pool.maxidle redis.tls.enabled redis.dialtimeout health.file
health.http health.tcp health.storagedriver.enabled health.storagedriver.interval
health.storagedriver.threshold proxy.remoteurl proxy.username proxy.password proxy.ttl
proxy.exec.command validation.enabled validation.disabled validation.manifests.urls.allow
validation.manifests.urls.deny validation.manifests.indexes.platforms
validation.manifests.indexes.platformlist policy.repository.classes
compatibility.schema1.enabled compatibility.schema1.signingkeyfile catalog.maxentries
"""


@pytest.mark.parametrize("path", re.findall(r"\S+", _THEIRS))
def test_every_key_of_theirs_has_a_row(path: str) -> None:
    key = key_of(path)
    assert key is not None
    assert bool(key.ours) != bool(key.why)


def test_every_setting_that_is_named_is_one_of_ours() -> None:
    names = {setting.name for setting in SETTINGS}
    assert {key.ours for key in KEYS if key.ours} <= names
    named = {name for key in KEYS for name in re.findall(r"`([a-z_]+)`", key.why)}
    assert named <= names


def printed(ullage: Ullage, folder: Path, text: str, code: int = 0) -> tuple[dict[str, str], str]:
    """The settings that are made of a file, which `serve` takes, and all that was printed."""
    file = folder / "config.yml"
    file.write_text(text, encoding="utf-8")
    done = ullage("config", "from-distribution", str(file))
    assert done.code == code, done
    ours = folder / "ullage.toml"
    ours.write_text(done.out, encoding="utf-8")
    load_settings({}, {}, ours)
    return tomllib.loads(done.out), done.out + done.err


def test_a_usual_configuration_becomes_settings_that_serve_takes(
    ullage: Ullage, tmp_path: Path
) -> None:
    settings, text = printed(ullage, tmp_path, USUAL.replace("  headers:", "  h2c:"))
    assert settings == {
        "external_url": "https://registry.example.com",
        "htpasswd": "/auth/htpasswd",
        "listen": ":5000",
        "max_page": "500",
        "metrics": ":5001",
        "shutdown_grace": "90s",
        "tls_cert": "/certs/domain.crt",
        "tls_key": "/certs/domain.key",
    }
    assert "asecret" not in text
    for key in (
        "storage.delete.enabled",
        "storage.maintenance.uploadpurging.age",
        "storage.cache.blobdescriptor",
        "storage.filesystem.rootdirectory",
        "http.secret",
    ):
        assert f"#   {key}: " in text


def test_what_cannot_be_done_is_an_error_by_its_name(ullage: Ullage, tmp_path: Path) -> None:
    _, text = printed(ullage, tmp_path, USUAL, 1)
    assert "ERROR: http.headers.X-Content-Type-Options: " in text
    mirror = "version: 0.1\nproxy:\n  remoteurl: https://registry-1.docker.io\n"
    settings, text = printed(ullage, tmp_path, mirror, 1)
    assert settings == {}
    assert "ERROR: proxy.remoteurl: it is no mirror of another registry\n" in text
    settings, text = printed(ullage, tmp_path, "version: 0.1\nhttp:\n  adr: :5000\n", 1)
    assert "ERROR: http.adr: no key of distribution's" in text


def test_without_accounts_other_addresses_get_them(ullage: Ullage, tmp_path: Path) -> None:
    """Ours does not start otherwise."""
    version = "version: 0.1\nhttp:\n  addr: "
    assert printed(ullage, tmp_path, f"{version}:5000\n")[0] == {"listen": ":5000", "auth": True}
    assert printed(ullage, tmp_path, f"{version}localhost:5000\n")[0] == {
        "listen": "localhost:5000"
    }


def test_a_bucket_becomes_a_url_with_a_place_of_our_own(ullage: Ullage, tmp_path: Path) -> None:
    """And no secret of it: those are the SDK's own variables."""
    s3 = {
        "bucket": "books",
        "region": "eu-west-1",
        "regionendpoint": "s3.example.org:9000",
        "secure": False,
        "rootdirectory": "/old/images",
        "accesskey": "AKIA",
        "secretkey": "topsecret",
    }
    text = yaml.safe_dump({"version": 0.1, "storage": {"s3": s3, "redirect": {"disable": True}}})
    settings, said = printed(ullage, tmp_path, text)
    assert settings["redirect"] == "never"
    options = parse_s3_url(settings["storage"])
    assert (options.bucket, options.prefix.strip("/")) == ("books", "old/images/ullage")
    assert options.endpoint == "http://s3.example.org:9000"
    assert "topsecret" not in said
    assert "AWS_SECRET_ACCESS_KEY" in said
    azure = {"accountname": "acme", "accountkey": "topsecret", "container": "books"}
    text = yaml.safe_dump({"version": 0.1, "storage": {"azure": azure}})
    settings, said = printed(ullage, tmp_path, text)
    parse_azure_url(settings["storage"])
    assert settings == {"storage": "az://books/ullage?account=acme"}
    assert "topsecret" not in said
    google = {"bucket": "books", "rootdirectory": "/old/images/", "keyfile": "/etc/key.json"}
    text = yaml.safe_dump({"version": 0.1, "storage": {"gcs": google}})
    settings, said = printed(ullage, tmp_path, text)
    options = parse_gs_url(settings["storage"])
    assert (options.bucket, options.prefix) == ("books", "old/images/ullage")
    assert "storage.gcs.keyfile: an HMAC key" in said


def test_variables_lie_over_the_file(
    ullage: Ullage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As distribution reads them; those of Kubernetes' services are none of them."""
    file = tmp_path / "config.yml"
    file.write_text("version: 0.1\nhttp:\n  addr: :5000\n", encoding="utf-8")
    monkeypatch.setenv("REGISTRY_HTTP_ADDR", "localhost:6000")
    monkeypatch.setenv("REGISTRY_STORAGE_DELETE_ENABLED", "true")
    monkeypatch.setenv("REGISTRY_PORT", "tcp://10.0.0.1:5000")
    line = ("config", "from-distribution")
    assert tomllib.loads(ullage(*line, str(file)).out)["listen"] == ":5000"
    done = ullage(*line, str(file), "--env")
    assert (done.code, tomllib.loads(done.out)) == (0, {"listen": "localhost:6000"})
    assert "storage.delete.enabled: " in done.out
    alone = ullage(*line, "--env")
    assert (alone.code, tomllib.loads(alone.out)) == (0, {"listen": "localhost:6000"})
    monkeypatch.setenv("REGISTRY_CONFIGURATION_PATH", str(tmp_path / "none.yml"))
    assert ullage(*line, "--env").err == f"ERROR: {tmp_path}/none.yml: No such file or directory\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it has no `version`"),
        ("[]", "it has no `version`"),
        ("version: 0.1\nhttp: {", "while parsing"),
        ("http:\n  addr: x\n", "it has no `version`"),
    ],
)
def test_another_file_is_one_line(ullage: Ullage, tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "config.yml"
    file.write_text(text, encoding="utf-8")
    done = ullage("config", "from-distribution", str(file))
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert why in done.err
    assert ullage("config", "from-distribution").code == 2


def test_which_variables_are_theirs() -> None:
    theirs = ["REGISTRY_HTTP_ADDR", "REGISTRY_LOGLEVEL", "REGISTRY_CONFIGURATION_PATH"]
    others = ["REGISTRY_PORT", "REGISTRY_SERVICE_HOST", "REGISTRY", "REGISTRY_", "ULLAGE_REGISTRY"]
    assert distribution_variables([*theirs, *others]) == sorted(theirs)


@pytest.mark.thorough
def test_serve_warns_once_of_variables_that_it_does_not_read(tmp_path: Path) -> None:
    variables = {"REGISTRY_STORAGE_DELETE_ENABLED": "true", "REGISTRY_HTTP_SECRET": "topsecret"}
    with UllageServer(tmp_path / "data", env=variables) as server:
        (line,) = [line for line in server.log.splitlines() if "REGISTRY_" in line]
        assert "WARNING REGISTRY_HTTP_SECRET, REGISTRY_STORAGE_DELETE_ENABLED: " in line
        assert "`ullage config from-distribution --env`" in line
        assert "topsecret" not in server.log
    told = run_ullage("config", "from-distribution", "--env", env=variables)
    assert (told.returncode, told.stderr) == (0, "")
    assert "storage.delete.enabled: nothing to set: always so" in told.stdout
