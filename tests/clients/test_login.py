"""Accounts and TLS by the clients themselves: logging in, being refused, and what they are told."""

import base64
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.clients.containers import Buildah, Builder, Podman, Skopeo
from tests.clients.dockerd import Docker
from tests.clients.layout import Image, write_image
from tests.clients.programs import attempt, client_environment, write_app_context
from tests.clients.secured import Login, Secured
from tests.clients.view import OCI_MANIFEST
from tests.support.require import require_command

pytestmark = pytest.mark.client

NULL_USER = "00000000-0000-0000-0000-000000000000"
_SENSIBLE = ("unauthorized", "authentication required", "denied", "invalid username/password")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """One for all tests here, each of which has repositories and accounts of its own."""
    flags = ("--anonymous-pull", "public/*", "--read-grace", "0s")
    with Secured(tmp_path_factory.mktemp("secured"), *flags) as secured:
        yield secured
        secured.server.assert_no_500()
        passwords = secured.admin.password
        assert secured.server.log.count(passwords) == 1, "shown once, and never logged"
        secured.manage("audit", "list")


@pytest.fixture
def skopeo() -> Iterator[Skopeo]:
    with Skopeo() as skopeo:
        yield skopeo


@pytest.fixture(params=[Podman, Buildah], ids=["podman", "buildah"])
def builder(request: pytest.FixtureRequest) -> Iterator[Builder]:
    tool: type[Builder] = request.param
    with tool() as builder:
        yield builder


class DockerUser:
    """Somebody at a Docker daemon, with a configuration of their own."""

    def __init__(self, docker: Docker, folder: Path, registry: Secured) -> None:
        self._docker = docker
        self._folder = folder
        self._host = registry.host

    def __call__(self, *arguments: str) -> str:
        done = self.attempt(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def attempt(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._docker.attempt("--config", self._folder, *arguments)

    def login(self, login: Login) -> subprocess.CompletedProcess[str]:
        name, password = login
        return self.attempt("login", "--username", name, "--password", password, self._host)

    @property
    def stored(self) -> dict[str, Any]:
        """What it keeps of its login at this registry."""
        path = self._folder / "config.json"
        config = json.loads(path.read_text()) if path.exists() else {}
        found: dict[str, Any] = config.get("auths", {}).get(self._host, {})
        return found


@pytest.fixture
def docker_user(
    docker: Docker, registry: Secured, tmp_path: Path
) -> Iterator[tuple[DockerUser, str]]:
    """Somebody who trusts the registry and has built an image; its name."""
    context = write_app_context(tmp_path / "context", "scratch", "app")
    docker.build(context, "app")
    with registry.trusted_by_docker():
        yield DockerUser(docker, tmp_path / "docker", registry), "app"


@contextmanager
def nothing_changes(registry: Secured) -> Iterator[None]:
    """Nothing is pushed, tagged or deleted meanwhile, and no byte of it stays on the disk."""
    with registry.view() as view:
        before = view.contents(), registry.server.disk_bytes()
        yield
        assert (view.contents(), registry.server.disk_bytes()) == before


def assert_sensible(refused: subprocess.CompletedProcess[str]) -> None:
    """It failed, and says that this is about rights and not about anything else."""
    said = (refused.stdout + refused.stderr).lower()
    assert refused.returncode != 0, said
    assert any(words in said for words in _SENSIBLE), said
    # skopeo and its family parse the body of a refused HEAD, which never has one.
    said = said.replace("unexpected end of json input", "")
    for confusing in ("500", "internal", "unexpected", "panic", "traceback", "eof"):
        assert confusing not in said, said


# --- docker ---------------------------------------------------------------------------------------


def test_docker_logs_in_pushes_pulls_and_logs_out(
    docker: Docker, docker_user: tuple[DockerUser, str], registry: Secured, tmp_path: Path
) -> None:
    """azure.md section 1.3: it keeps an identity token, and the password nowhere."""
    user, image = docker_user
    name = f"{registry.host}/docker/app:1"
    assert "Login Succeeded" in user.login(registry.admin).stdout
    assert user.stored["identitytoken"]
    assert base64.b64decode(user.stored["auth"]) == b"admin:"
    user("tag", image, name)
    user("push", "--quiet", name)
    docker.forget_everything()
    user("pull", "--quiet", name)

    user("logout", registry.host)
    assert user.stored == {}
    docker.forget_everything()
    assert_sensible(user.attempt("pull", name))
    docker.build(write_app_context(tmp_path / "again", "scratch", "again"), name)
    with nothing_changes(registry):
        assert_sensible(user.attempt("push", name))


def test_docker_takes_a_refresh_token_for_the_password_of_the_null_user(
    docker: Docker, docker_user: tuple[DockerUser, str], registry: Secured
) -> None:
    """azure.md section 1.6: what `az acr login --expose-token` tells people to type."""
    user, image = docker_user
    login = Login(NULL_USER, _refresh_token(registry, registry.admin))
    assert "Login Succeeded" in user.login(login).stdout
    name = f"{registry.host}/docker/null:1"
    user("tag", image, name)
    user("push", "--quiet", name)
    docker.forget_everything()
    user("pull", "--quiet", name)


def test_docker_is_refused_with_a_wrong_password_and_keeps_nothing(
    docker_user: tuple[DockerUser, str], registry: Secured
) -> None:
    user, _ = docker_user
    for login in (Login("admin", "wrong"), Login("nobody", "wrong"), Login(NULL_USER, "wrong")):
        assert_sensible(user.login(login))
        assert user.stored == {}


def test_docker_does_not_trust_the_registry_without_its_authority(
    docker: Docker, registry: Secured, tmp_path: Path
) -> None:
    """Otherwise the other tests would show nothing about TLS."""
    refused = DockerUser(docker, tmp_path, registry).login(registry.admin)
    assert refused.returncode != 0
    assert "certificate" in refused.stderr


def test_docker_says_what_a_reader_may_not_do(
    docker: Docker, docker_user: tuple[DockerUser, str], registry: Secured
) -> None:
    """A reader pulls; its push and another tenant's pull are refused (azure.md section 1.8)."""
    user, image = docker_user
    name, other = f"{registry.host}/dockerteam/app:1", f"{registry.host}/dockerother/app:1"
    user.login(registry.admin)
    for pushed in (name, other):
        user("tag", image, pushed)
        user("push", "--quiet", pushed)
    user("logout", registry.host)
    docker.forget_everything()

    reader = registry.token("docker-reader", "dockerteam/*", "content/read")
    assert "Login Succeeded" in user.login(reader).stdout
    user("pull", "--quiet", name)
    with nothing_changes(registry):
        user("tag", name, f"{registry.host}/dockerteam/app:2")
        assert_sensible(user.attempt("push", f"{registry.host}/dockerteam/app:2"))
        user("tag", name, f"{registry.host}/dockerother/new:1")
        assert_sensible(user.attempt("push", f"{registry.host}/dockerother/new:1"))
    foreign = user.attempt("pull", other)
    absent = user.attempt("pull", f"{registry.host}/dockerother/absent:1")
    assert_sensible(foreign)
    assert absent.stderr == foreign.stderr.replace("dockerother/app", "dockerother/absent")


@pytest.mark.parametrize("how", ["disabled", "password deleted", "deleted"])
def test_docker_is_let_in_no_more_once_its_token_is_gone(
    docker: Docker, docker_user: tuple[DockerUser, str], registry: Secured, how: str
) -> None:
    """Its identity token ends with the account; a password that was deleted logs nobody in."""
    user, image = docker_user
    place = how.replace(" ", "-")
    name = f"{registry.host}/{place}/app:1"
    writer = registry.token(place, f"{place}/*", "content/read", "content/write")
    user.login(writer)
    user("tag", image, name)
    user("push", "--quiet", name)
    if how == "disabled":
        registry.manage("token", "update", "--name", place, "--status", "disabled")
    elif how == "deleted":
        registry.manage("token", "delete", "--name", place)
    else:
        registry.manage("token", "credential", "delete", "--name", place, "--password1")
    docker.forget_everything()
    assert_sensible(user.attempt("pull", name))
    assert_sensible(user.login(writer))


# --- podman and buildah ---------------------------------------------------------------------------


def test_builders_log_in_push_pull_and_log_out(
    builder: Builder, skopeo: Skopeo, registry: Secured, tmp_path: Path
) -> None:
    certs, place = ("--cert-dir", str(registry.cert_dir)), builder.program
    source, copy = f"{registry.host}/{place}/app:1", f"{registry.host}/{place}/copy:1"
    _push(skopeo, registry, tmp_path / "image", f"{place}/app:1")
    writer = registry.token(f"{place}-writer", f"{place}/*", "content/read", "content/write")

    assert "Login Succeeded" in _log_in(builder, registry, writer).stdout
    builder("pull", *certs, "--quiet", source)
    builder("push", *certs, "--quiet", source, f"docker://{copy}")
    with registry.view() as view:
        assert view.tags(f"{place}/copy") == ["1"]

    builder("logout", registry.host)
    builder("rmi", "--all", "--force")
    assert_sensible(builder.attempt("pull", *certs, "--quiet", copy))


def test_builders_are_told_why_they_are_refused(
    builder: Builder, skopeo: Skopeo, registry: Secured, tmp_path: Path
) -> None:
    """A wrong password, a reader's push, another tenant's image, a token disabled meanwhile."""
    certs, place = ("--cert-dir", str(registry.cert_dir)), f"{builder.program}-refused"
    for name in (f"{place}/app:1", f"{place}-other/app:1"):
        _push(skopeo, registry, tmp_path / name.partition("/")[0], name)
    reader = registry.token(f"{place}-reader", f"{place}/*", "content/read")
    assert_sensible(_log_in(builder, registry, Login(reader.name, "wrong")))

    assert "Login Succeeded" in _log_in(builder, registry, reader).stdout
    source = f"{registry.host}/{place}/app:1"
    builder("pull", *certs, "--quiet", source)
    with nothing_changes(registry):
        for target in (f"{place}/app:2", f"{place}-other/new:1"):
            pushed = builder.attempt("push", *certs, source, f"docker://{registry.host}/{target}")
            assert_sensible(pushed)
    other = f"{registry.host}/{place}-other/app:1"
    assert_sensible(builder.attempt("pull", *certs, "--quiet", other))

    registry.manage("token", "update", "--name", reader.name, "--status", "disabled")
    builder("rmi", "--all", "--force")
    assert_sensible(builder.attempt("pull", *certs, "--quiet", source))


# --- skopeo ---------------------------------------------------------------------------------------


def test_skopeo_does_what_each_of_its_credentials_allows(
    skopeo: Skopeo, registry: Secured, tmp_path: Path
) -> None:
    """Reader, writer and deleter of one prefix, and another tenant (azure.md section 1.8)."""
    layout = tmp_path / "image"
    write_image(layout, Image(("base", "skopeo")))
    image, certs = f"docker://{registry.host}/skopeo/app:1", ("--cert-dir", str(registry.cert_dir))
    rights = {
        "reader": ("content/read",),
        "writer": ("content/read", "content/write"),
        "deleter": ("content/read", "content/delete"),
    }
    logins = {
        name: registry.token(f"skopeo-{name}", "skopeo/*", *verbs) for name, verbs in rights.items()
    }
    # The prefix of its name is the other's name, but the other is not below it.
    logins["tenant"] = registry.token("skopeo-tenant", "skope/*", *rights["writer"])

    def push(who: str) -> subprocess.CompletedProcess[str]:
        to = ("--dest-cert-dir", str(registry.cert_dir), "--dest-creds", str(logins[who]))
        return skopeo.attempt("copy", "--quiet", *to, f"oci:{layout}", image)

    def ask(what: str, who: str) -> subprocess.CompletedProcess[str]:
        target = image.rpartition(":")[0] if what == "list-tags" else image
        return skopeo.attempt(what, *certs, "--creds", str(logins[who]), target)

    with nothing_changes(registry):
        for who in ("reader", "deleter", "tenant"):
            assert_sensible(push(who))
    assert push("writer").returncode == 0
    for what in ("inspect", "list-tags"):
        for who in ("reader", "writer", "deleter"):
            assert ask(what, who).returncode == 0
        assert_sensible(ask(what, "tenant"))
    with nothing_changes(registry):
        for who in ("reader", "writer", "tenant"):
            assert_sensible(ask("delete", who))
    assert ask("delete", "deleter").returncode == 0
    with registry.view() as view:
        assert view.tags("skopeo/app") == []


def test_skopeo_is_told_why_it_is_refused(
    skopeo: Skopeo, registry: Secured, tmp_path: Path
) -> None:
    """A wrong password, a disabled user, none at all, and a certificate nobody vouches for."""
    _push(skopeo, registry, tmp_path / "image", "refused/app:1")
    image, certs = f"docker://{registry.host}/refused/app:1", ("--cert-dir", str(registry.cert_dir))
    user = registry.manage("user", "create", "--name", "skopeo-user", "--admin")
    login = Login("skopeo-user", user["password"])
    assert skopeo.attempt("inspect", *certs, "--creds", str(login), image).returncode == 0
    registry.manage("user", "update", "--name", "skopeo-user", "--status", "disabled")
    for creds in (str(login), "admin:wrong", "nobody:wrong"):
        for what in ("inspect", "delete"):
            assert_sensible(skopeo.attempt(what, *certs, "--creds", creds, image))
    assert_sensible(skopeo.attempt("inspect", *certs, image))
    untrusted = skopeo.attempt("inspect", "--creds", str(registry.admin), image)
    assert untrusted.returncode != 0
    assert "certificate" in untrusted.stderr


# --- curl -----------------------------------------------------------------------------------------


def test_curl_shows_its_password_on_every_data_route(registry: Secured, tmp_path: Path) -> None:
    """azure.md section 1.6: Basic without any token call, as acr-cli does it."""
    rights = ("content/read", "content/write", "content/delete")
    login = registry.token("curl", "curl/*", *rights)
    config = b"{}"
    digest = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    described = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest, "size": 2}
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described, "layers": []}

    def curl(method: str, path: str, *options: str) -> int:
        command = [require_command("curl"), "--disable", "--silent", "--show-error"]
        command += ["--cacert", str(registry.authority), "--user", str(login), "--output"]
        command += [str(tmp_path / "body"), "--write-out", "%{http_code}", "--request", method]
        command += [*options, *(("--head",) if method == "HEAD" else ())]
        done = attempt([*command, registry.server.url + path], client_environment(tmp_path))
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    def body(data: str, media_type: str) -> tuple[str, ...]:
        return "--data-binary", data, "--header", f"Content-Type: {media_type}"

    upload = f"/v2/curl/app/blobs/uploads/?digest={digest}"
    assert curl("POST", upload, *body(config.decode(), "application/octet-stream")) == 201
    tagged = "/v2/curl/app/manifests/1"
    assert curl("PUT", tagged, *body(json.dumps(manifest), OCI_MANIFEST)) == 201
    for path in (
        "/v2/", "/v2/_catalog", "/v2/curl/app/tags/list", tagged, f"/v2/curl/app/blobs/{digest}",
        f"/v2/curl/app/referrers/{digest}",
    ):  # fmt: skip
        assert curl("GET", path) == 200, path
    assert curl("GET", "/v2/_catalog") == 200
    assert json.loads((tmp_path / "body").read_text())["repositories"] == ["curl/app"]
    assert curl("HEAD", tagged) == 200
    assert curl("GET", "/v2/other/app/manifests/1") == 401
    assert curl("DELETE", f"/v2/curl/app/blobs/{digest}") in (202, 405)
    assert curl("DELETE", tagged) == 202

    registry.manage("token", "update", "--name", "curl", "--status", "disabled")
    assert curl("GET", "/v2/") == 401


# --- anonymous pull -------------------------------------------------------------------------------


def test_anybody_pulls_what_is_public_and_nothing_else(
    skopeo: Skopeo, docker_user: tuple[DockerUser, str], registry: Secured, tmp_path: Path
) -> None:
    """azure.md section 1.7, with `--anonymous-pull public/*`: no login anywhere."""
    user, image = docker_user
    certs = ("--cert-dir", str(registry.cert_dir))
    for name in ("public/app:1", "private/app:1", "publicx/app:1"):
        _push(skopeo, registry, tmp_path / name.partition("/")[0], name)
    public, private = (f"{registry.host}/{place}/app:1" for place in ("public", "private"))

    assert skopeo.attempt("inspect", *certs, f"docker://{public}").returncode == 0
    user("pull", "--quiet", public)
    for hidden in (private, f"{registry.host}/publicx/app:1", f"{registry.host}/private/none:1"):
        assert_sensible(skopeo.attempt("inspect", *certs, f"docker://{hidden}"))
        assert_sensible(user.attempt("pull", hidden))

    with nothing_changes(registry):
        user("tag", image, f"{registry.host}/public/mine:1")
        assert_sensible(user.attempt("push", f"{registry.host}/public/mine:1"))
        assert_sensible(skopeo.attempt("delete", *certs, f"docker://{public}"))
    trusting = registry.trust()
    for path in ("/v2/_catalog", "/v2/"):
        listing = httpx.get(registry.server.url + path, verify=trusting, trust_env=False)
        assert listing.status_code == 401
        assert "app" not in listing.text


# --- inside ---------------------------------------------------------------------------------------


def _push(skopeo: Skopeo, registry: Secured, layout: Path, name: str) -> None:
    """Push an image of its own as administrator."""
    write_image(layout, Image((name,)))
    to = ("--dest-cert-dir", str(registry.cert_dir), "--dest-creds", str(registry.admin))
    skopeo("copy", "--quiet", *to, f"oci:{layout}", f"docker://{registry.host}/{name}")


def _log_in(builder: Builder, registry: Secured, login: Login) -> subprocess.CompletedProcess[str]:
    certs = ("--cert-dir", str(registry.cert_dir))
    who = ("--username", login.name, "--password", login.password)
    return builder.attempt("login", *certs, *who, registry.host)


def _refresh_token(registry: Secured, login: Login) -> str:
    answer = httpx.get(
        f"{registry.server.url}/oauth2/token",
        params={"service": registry.host, "offline_token": "true"},
        auth=(login.name, login.password),
        verify=registry.trust(),
        trust_env=False,
    )
    token: str = answer.raise_for_status().json()["refresh_token"]
    return token
