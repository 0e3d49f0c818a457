"""`ullage config from-distribution`: settings from the configuration of CNCF distribution.

It is what runs in the image `registry:2` and `registry:3`. The keys are those of its
`configuration.go` as of 3.1. Each has a row in `KEYS`: our setting, or why there is none.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from ullage.cli.commands.distribution_variables import FILE_VARIABLE, path_of
from ullage.cli.shell.commands import HELP, Command, Flag
from ullage.cli.shell.errors import Failure
from ullage.cli.shell.invocation import Invocation, Result

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_MILLISECONDS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}


@dataclass(frozen=True, slots=True)
class Key:
    """A key of theirs, or with `.*` all below one: the setting that it becomes, or why none does.

    `translate` makes our value of theirs, None if there is nothing to set. What is `refused` has no
    counterpart that would do the same: a registry without it is not the one that was there.
    """

    name: str
    why: str = ""
    ours: str = ""
    translate: Callable[[Any], str | None] = str
    refused: bool = False


@dataclass
class Translation:
    """What became of a configuration: our settings, remarks by key, and the keys refused."""

    settings: dict[str, str] = field(default_factory=dict)
    remarks: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def _url(value: Any) -> str:
    return str(value).rstrip("/")


def _duration(value: Any) -> str | None:
    """Theirs may have fractions (`1.5h`), which ours has not."""
    parts = _DURATION.findall(str(value))
    total = round(sum(float(number) * _MILLISECONDS[unit] for number, unit in parts))
    if "".join("".join(part) for part in parts) != str(value) or not total:
        return None
    return f"{total}ms" if total % 1000 else f"{total // 1000}s"


def _redirect(value: Any) -> str | None:
    return "never" if value is True else None


def _platforms(value: Any) -> str | None:
    """`all` is our default; of indexes, parts may be absent otherwise."""
    return None if str(value).lower() == "all" else "platforms"


_ALWAYS = "nothing to set: always so"
_NEEDLESS = "not needed"
_LOGS = "nothing to set: one line a request and one an event, on stderr"
_CLOUD = "the Azure SDK's own variable, so that no secret is in the file: "
_S3_TUNING = "not needed: the store chooses how it transfers"
_GOOGLE = "an HMAC key of the service account, in GCS_HMAC_ACCESS_ID and GCS_HMAC_SECRET"
_NO_BUCKET = "there is no store for it: use s3://, gs:// or az://, or files"

# From the most to the least particular: the first that fits a key counts.
KEYS = (
    Key("version", _NEEDLESS),
    Key("log.*", _LOGS),
    Key("loglevel", _LOGS),
    Key("reporting.*", "no errors are sent to services of others: they are in the log"),
    Key("http.addr", ours="listen"),
    Key("http.host", ours="external_url", translate=_url),
    Key("http.tls.certificate", ours="tls_cert"),
    Key("http.tls.key", ours="tls_key"),
    Key("http.tls.letsencrypt.*", "no certificate is fetched: a proxy in front does", refused=True),
    Key("http.tls.clientcas", "clients have passwords or tokens, no certificates", refused=True),
    Key("http.tls.clientauth", "clients have passwords or tokens, no certificates", refused=True),
    Key("http.tls.minimumtls", _ALWAYS + ", TLS 1.2 and newer"),
    Key("http.tls.ciphersuites", _ALWAYS + ", those that are safe today"),
    Key("http.net", "only TCP is served", refused=True),
    Key("http.prefix", "the registry is at the root of its host", refused=True),
    Key("http.secret", _NEEDLESS + ": sessions are in the database"),
    Key("http.relativeurls", _ALWAYS + ": URLs are made from `external_url` or the request"),
    Key("http.draintimeout", ours="shutdown_grace", translate=_duration),
    Key("http.debug.addr", ours="metrics"),
    Key("http.debug.prometheus.enabled", "in `metrics`: where that listens, there are figures"),
    Key("http.debug.prometheus.path", "nothing to set: always /metrics"),
    Key("http.headers.*", "no headers are added: a proxy in front does", refused=True),
    Key("http.http2.*", "HTTP/1.1 is served; a proxy in front may speak HTTP/2"),
    Key("http.h2c.*", "HTTP/1.1 is served; a proxy in front may speak HTTP/2"),
    Key("auth.htpasswd.path", ours="htpasswd"),
    Key("auth.htpasswd.realm", _NEEDLESS),
    Key("auth.token.*", "no other service's tokens are taken; accounts: --auth", refused=True),
    Key("auth.silly.*", "it lets everyone in; accounts: --auth", refused=True),
    Key("auth.none", "without accounts only loopback is served; accounts: --auth"),
    Key(
        "storage.filesystem.rootdirectory",
        "its layout is another: never give it to --data. Copy the images while both run, as with "
        "`skopeo sync`",
    ),
    Key("storage.filesystem.maxthreads", _NEEDLESS + ": see `threads`"),
    Key("storage.s3.accesskey", "the SDK's own variable, AWS_ACCESS_KEY_ID"),
    Key("storage.s3.secretkey", "the SDK's own variable, AWS_SECRET_ACCESS_KEY"),
    Key("storage.s3.sessiontoken", "the SDK's own variable, AWS_SESSION_TOKEN"),
    Key("storage.s3.region", "in `storage`"),
    Key("storage.s3.regionendpoint", "in `storage`"),
    Key("storage.s3.bucket", "in `storage`"),
    Key("storage.s3.rootdirectory", "in `storage`, with /ullage behind it: its layout is another"),
    Key("storage.s3.encrypt", "the bucket's own rule: default encryption"),
    Key("storage.s3.keyid", "the bucket's own rule: default encryption"),
    Key("storage.s3.storageclass", "the bucket's own rule: its default, or a lifecycle"),
    Key("storage.s3.objectacl", "the bucket's own rule"),
    Key("storage.s3.skipverify", "certificates are checked; AWS_CA_BUNDLE names an authority"),
    Key("storage.s3.accelerate", "name the endpoint in `storage`: endpoint=https://…"),
    Key("storage.s3.usedualstack", "the SDK's own variable, AWS_USE_DUALSTACK_ENDPOINT"),
    Key("storage.s3.*", _S3_TUNING),
    Key("storage.s3aws.*", "an old name: call it s3", refused=True),
    Key("storage.azure.accountname", "in `storage`"),
    Key("storage.azure.container", "in `storage`"),
    Key("storage.azure.rootdirectory", "in `storage`, with /ullage behind it: another layout"),
    Key("storage.azure.realm", "in `storage`"),
    Key("storage.azure.serviceurl", "in `storage`"),
    Key("storage.azure.accountkey", _CLOUD + "AZURE_STORAGE_KEY"),
    Key("storage.azure.credentials.clientid", _CLOUD + "AZURE_CLIENT_ID"),
    Key("storage.azure.credentials.tenantid", _CLOUD + "AZURE_TENANT_ID"),
    Key("storage.azure.credentials.secret", _CLOUD + "AZURE_CLIENT_SECRET"),
    Key("storage.azure.*", _S3_TUNING),
    Key("storage.gcs.bucket", "in `storage`"),
    Key("storage.gcs.rootdirectory", "in `storage`, with /ullage behind it: another layout"),
    Key("storage.gcs.keyfile", _GOOGLE),
    Key("storage.gcs.credentials.*", _GOOGLE),
    Key("storage.gcs.*", _S3_TUNING),
    Key("storage.swift.*", _NO_BUCKET, refused=True),
    Key("storage.oss.*", _NO_BUCKET, refused=True),
    Key("storage.inmemory.*", "in `storage`"),
    Key("storage.delete.enabled", _ALWAYS),
    Key("storage.redirect.disable", ours="redirect", translate=_redirect),
    Key("storage.cache.*", _NEEDLESS + ": facts are in the database"),
    Key("storage.tag.concurrencylimit", _NEEDLESS + ": tags are in the database"),
    Key(
        "storage.maintenance.uploadpurging.*",
        _ALWAYS + ": an idle upload ends after `upload_idle`, 24h by default",
    ),
    Key(
        "storage.maintenance.readonly.*",
        _NEEDLESS + ": deletions give their space back while pushes go on",
    ),
    Key("redis.*", _NEEDLESS + ": facts are in the database"),
    Key("notifications.*", "no events are sent to others", refused=True),
    Key("health.*", _ALWAYS + ": disk and database are watched"),
    Key("proxy.*", "it is no mirror of another registry", refused=True),
    Key("middleware.*", "there are no plugins", refused=True),
    Key("validation.enabled", _ALWAYS),
    Key("validation.disabled", _ALWAYS),
    Key("validation.manifests.urls.*", "layers elsewhere are not taken", refused=True),
    Key(
        "validation.manifests.indexes.platforms", ours="sparse_indexes", translate=_platforms
    ),
    Key("validation.manifests.indexes.platformlist", "any platform may be absent then"),
    Key("policy.repository.classes", "scope maps say who may do what in which repository"),
    Key("compatibility.schema1.*", "schema 1 went out of use in 2015", refused=True),
    Key("catalog.maxentries", ours="max_page"),
)  # fmt: skip


def translate(theirs: Mapping[str, Any]) -> Translation:
    """Our settings for a configuration of theirs, and a remark for every key that is none."""
    found = Translation()
    for path, value in _leaves(theirs):
        key = key_of(path)
        if key is None:
            found.refused[path] = "no key of distribution's configuration that is known here"
        elif key.refused:
            found.refused[path] = key.why
        elif not key.ours:
            found.remarks[path] = key.why
        elif (ours := key.translate(value)) is None:
            found.remarks[path] = f"nothing to set for this value; see `{key.ours}`"
        else:
            found.settings[key.ours] = ours
    _add_storage(theirs.get("storage"), found)
    return found


def key_of(path: str) -> Key | None:
    """The row of a key such as `http.tls.key`."""
    for key in KEYS:
        stem = key.name.removesuffix(".*")
        if path == stem or (stem != key.name and path.startswith(f"{stem}.")):
            return key
    return None


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every key that has a value, by its path. A list is a value, and so is nothing."""
    if not isinstance(value, Mapping) or not value:
        yield path, value
        return
    for name, inner in value.items():
        yield from _leaves(inner, f"{path}.{name}" if path else str(name))


def _add_storage(storage: Any, found: Translation) -> None:
    if not isinstance(storage, Mapping):
        return
    if "inmemory" in storage:
        found.settings["storage"] = "memory:"
    for driver, make in (("s3", _s3_url), ("azure", _azure_url), ("gcs", _gs_url)):
        options = storage.get(driver)
        if isinstance(options, Mapping):
            found.settings["storage"] = make(options)


def _s3_url(options: Mapping[str, Any]) -> str:
    query = {}
    endpoint = str(options.get("regionendpoint") or "")
    if endpoint:
        scheme = "https" if options.get("secure", True) else "http"
        query["endpoint"] = endpoint if "://" in endpoint else f"{scheme}://{endpoint}"
    if options.get("region"):
        query["region"] = str(options["region"])
    return _bucket_url("s3", str(options.get("bucket", "")), options, query)


def _azure_url(options: Mapping[str, Any]) -> str:
    query = {"account": str(options.get("accountname", ""))}
    realm = str(options.get("realm") or "")
    endpoint = str(options.get("serviceurl") or "")
    if not endpoint and realm and realm != "core.windows.net":
        endpoint = f"https://{query['account']}.blob.{realm}"
    if endpoint:
        query["endpoint"] = endpoint.rstrip("/")
    return _bucket_url("az", str(options.get("container", "")), options, query)


def _gs_url(options: Mapping[str, Any]) -> str:
    return _bucket_url("gs", str(options.get("bucket", "")), options, {})


def _bucket_url(
    scheme: str, bucket: str, options: Mapping[str, Any], query: Mapping[str, str]
) -> str:
    """Below their prefix a place of our own: two registries must never share one."""
    prefix = "/".join(filter(None, (str(options.get("rootdirectory") or "").strip("/"), "ullage")))
    asked = f"?{urlencode(query)}" if query else ""
    return f"{scheme}://{bucket}/{quote(prefix)}{asked}"


def overlaid(theirs: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """A configuration with `REGISTRY_*` variables laid over it; each of them is YAML."""
    import yaml

    found: dict[str, Any] = json.loads(json.dumps(theirs, default=str))
    for name in sorted(environment):
        path = path_of(name)
        if not path:
            continue
        try:
            value = yaml.safe_load(environment[name])
        except yaml.YAMLError:
            value = environment[name]
        _put(found, path, value)
    return found


def _put(target: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for name in path[:-1]:
        inner = target.get(name)
        if not isinstance(inner, dict):
            inner = target[name] = {}
        target = inner
    target[path[-1]] = value


def toml_of(found: Translation) -> str:
    """The settings as TOML, and each key that is none as a comment."""
    lines = [f"{name} = {_quoted(value)}" for name, value in sorted(found.settings.items())]
    if "htpasswd" not in found.settings and not _is_loopback(found.settings.get("listen", "")):
        lines += ["# Other addresses than loopback take accounts:", "auth = true"]
    for title, remarks in (("Not taken over", found.remarks), ("Refused", found.refused)):
        if remarks:
            lines += ["", f"# {title}:"]
            lines += [f"#   {path}: {why}" for path, why in sorted(remarks.items())]
    return "\n".join(lines).lstrip("\n") + "\n"


def _is_loopback(listen: str) -> bool:
    """Whether it is, or by default would be, this machine alone that is served."""
    return not listen or listen.startswith(("localhost:", "127.", "[::1]:"))


def _quoted(value: str) -> str:
    """A basic string of TOML, which are JSON's but for one character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def from_distribution(invocation: Invocation) -> Result:
    given = invocation.given
    environment = os.environ if given.env else {}
    file = given.file or environment.get(FILE_VARIABLE)
    if file is None and not given.env:
        raise Failure("name a file, or take what is in the environment with --env", 2)
    theirs = _read(Path(file)) if file else {}
    found = translate(overlaid(theirs, environment))
    for path, why in sorted(found.refused.items()):
        invocation.console.error(f"{path}: {why}")
    return Result(text=toml_of(found), code=1 if found.refused else 0)


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise Failure(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(read, dict) or "version" not in read:
        raise Failure(f"{path}: no configuration of distribution: it has no `version`")
    return read


COMMANDS = (
    Command(
        ("config", "from-distribution"),
        "Print settings for what CNCF distribution (registry:2, registry:3) is configured to do.",
        (
            Flag(("file",), "Its configuration, such as /etc/docker/registry/config.yml."),
            Flag(("--env",), "Take REGISTRY_* variables from the environment, over the file."),
        ),
        from_distribution,
        more="TOML for `ullage serve --config`. Each key that becomes no setting is a comment that "
        "says why. Those that Ullage cannot do are also errors.",
        examples=(
            "ullage config from-distribution /etc/docker/registry/config.yml",
            "ullage config from-distribution --env",
        ),
        exits={1: "It cannot be read, or asks for what Ullage cannot do; the rest was printed."},
        common=(HELP,),
    ),
)
