"""Azure's own command line, as Debian has it, not logged in to Azure: every command it can do.

azure.md section 3. What reads is compared with `ullage`, which has the same manners.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest

from tests.clients.azure import Azure, Ours, Registry, Said
from tests.clients.programs import payload
from tests.clients.secured import Login
from tests.server.pushing import encoded, image, index_of, push_image, put_manifest
from tests.support.registry import descriptor
from tests.support.server import run_ullage
from ullage.oci.digest import Digest, digest_of

pytestmark = pytest.mark.client

NOTHING = "sha256:" + "0" * 64
SIGNATURE, ATTESTATION = "application/vnd.example.signature", "application/vnd.example.attestation"
SURE = "Are you sure you want to continue? (y/n): "
_WHEN = re.compile(r"[0-9-]{10} [0-9:]{8}\.[0-9]{6}")
_REQUEST = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")
# What az says about itself: that these commands are a preview, and how it read a name.
_ABOUT_AZ = re.compile(r"^WARNING: .*(is in preview|is automatically omitted).*\n", re.MULTILINE)
# What ullage adds to what az says.
_GIVES_BACK = re.compile(r"^This gives back .*\n", re.MULTILINE)


class Shelf(NamedTuple):
    """A registry with images to look at, and the two command lines that look."""

    registry: Registry
    az: Azure
    ours: Ours
    # What team/app:latest and team/multi:signed are.
    app: str
    signed: str

    def both(self, line: str) -> tuple[Said, Said]:
        """What az says, and what ours does; at the same time, for az takes its time to start."""
        line = self.fill(f"az acr {line}")
        with ThreadPoolExecutor(2) as pool:
            az, ours = pool.map(lambda shell: shell(line), (self.az, self.ours))
        return az, ours

    def fill(self, line: str) -> str:
        """A line with the names that are only known now."""
        names = {"APP": self.app, "SIGNED": self.signed, "LS": self.registry.login_server}
        for name, value in names.items():
            line = re.sub(rf"\b{name}\b", str(value), line)
        return line


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    """team/app with versions and an orphan; team/multi with platforms and signatures; many tags."""
    with Registry(tmp_path_factory.mktemp("shelf")) as registry:
        http = registry.http
        for version in ("orphan", "v1", "v2"):
            push_image(http, "team/app", "latest", (b"base", version.encode()))
            if version != "orphan":
                push_image(http, "team/app", version, (b"base", version.encode()))
        app = registry.view.digest("team/app:latest")
        platforms = [
            push_image(http, "team/multi", name, (name.encode(),)) for name in ("amd64", "arm64")
        ]
        put_manifest(http, "team/multi", "multi", index_of(http, "team/multi", platforms))
        signed = push_image(http, "team/multi", "signed", (b"signed",))
        signature = refer(registry, signed, SIGNATURE)
        refer(registry, signed, ATTESTATION)
        refer(registry, signature, ATTESTATION)
        many = image(http, "many")
        for number in range(120):
            put_manifest(http, "many", f"t{number:03}", many)
        yield Shelf(registry, Azure(registry), Ours(registry), app, signed)


def refer(registry: Registry, subject: Digest, artifact_type: str) -> Digest:
    """Push an artifact that refers to a manifest in team/multi."""
    found = registry.http.get(f"/v2/team/multi/manifests/{subject}")
    manifest = image(registry.http, "team/multi", (artifact_type.encode(),)) | {
        "artifactType": artifact_type,
        "subject": descriptor(found.headers["Content-Type"], found.content),
    }
    put_manifest(registry.http, "team/multi", digest_of(encoded(manifest)), manifest)
    return digest_of(encoded(manifest))


def plain(said: Said) -> tuple[int, str, str]:
    """Without the time and the request that an error names, and what az says about itself."""
    return said.code, said.out, _REQUEST.sub("ID", _WHEN.sub("NOW", _ABOUT_AZ.sub("", said.err)))


# --- reading --------------------------------------------------------------------------------------

READING = (
    "repository list -n myregistry",
    "repository list -n myregistry --top 1 -o tsv",
    "repository list -n myregistry -o yaml",
    "repository list -n LS",
    "repository show -n myregistry --repository team/app",
    "repository show -n myregistry --image team/app:v1",
    "repository show -n myregistry --image team/app@APP",
    "repository show-tags -n myregistry --repository team/app",
    "repository show-tags -n myregistry --repository team/app --orderby time_desc --detail",
    "repository show-tags -n myregistry --repository team/app --top 2 -o tsv",
    "repository show-tags -n myregistry --repository many --top 110 --query 'length(@)'",
    "repository show-manifests -n myregistry --repository team/app --detail --orderby time_asc",
    (
        "repository show-manifests -n myregistry --repository team/app -o tsv"
        " --query '[].{tag:tags[0],digest:digest}'"
    ),
    "repository update -n myregistry --repository team/app",
    "manifest list-metadata -r myregistry -n team/app",
    "manifest list-metadata LS/team/multi --orderby time_desc --top 3",
    "manifest list -r myregistry -n team/multi",
    "manifest show LS/team/app:v1 --raw",
    "manifest show-metadata -r myregistry -n team/app:v1",
    "manifest show-metadata LS/team/app@APP",
    "manifest list-referrers -r myregistry -n team/multi:signed",
    "manifest list-referrers -r myregistry -n team/multi@SIGNED --recursive",
    f"manifest list-referrers LS/team/multi:signed --artifact-type {SIGNATURE}",
)


@pytest.mark.parametrize("line", READING)
def test_what_az_shows_ullage_shows(shelf: Shelf, line: str) -> None:
    """azure.md sections 3.1 and 3.5: to the byte, on standard output and in warnings."""
    az, ours = shelf.both(line)
    assert az.code == 0, az
    assert az.out.strip() not in ("", "[]", "{}", "null")
    assert plain(ours) == plain(az)


def test_what_az_shows_is_what_was_pushed(shelf: Shelf) -> None:
    """azure.md section 3.5: all pages, explicit nulls, a manifest's bytes as they were pushed."""
    az = shelf.az
    shown = az("az acr repository show-tags -n myregistry --repository many").json
    assert shown == [f"t{number:03}" for number in range(120)]
    shown = az("az acr repository show-manifests -n myregistry --repository team/app").json
    assert sorted((one["tags"] for one in shown), key=str) == [None, ["latest", "v2"], ["v1"]]
    shown = az("az acr repository show-manifests -n myregistry --repository team/multi").json
    # Nobody tagged the referrers, but they are no orphans.
    assert sorted((one["tags"] for one in shown), key=str) == [
        ["amd64"], ["arm64"], ["multi"], ["signed"], [], [], [],
    ]  # fmt: skip
    said = az(shelf.fill("az acr manifest show LS/team/app@APP --raw"))
    assert "sha256:" + hashlib.sha256(said.out.encode()).hexdigest() == shelf.app
    line = "az acr manifest list-referrers -r myregistry -n team/multi:signed"
    assert len(az(line).json["manifests"]) == 2
    assert len(az(f"{line} --recursive").json["manifests"]) == 3


@pytest.mark.parametrize(
    ("line", "columns"),
    [
        ("repository list -n myregistry", "Result"),
        (
            "repository show-tags -n myregistry --repository team/app --detail",
            "CreatedTime Digest LastUpdateTime Name Signed",
        ),
        ("repository show-manifests -n myregistry --repository team/app", "Digest Timestamp"),
        (
            "manifest list-metadata -r myregistry -n team/app",
            "Architecture ConfigMediaType CreatedTime Digest ImageSize LastUpdateTime MediaType Os",
        ),
        (
            "manifest list-referrers -r myregistry -n team/multi:signed",
            "Digest ArtifactType MediaType Size",
        ),
    ],
)
def test_az_makes_tables_of_it(shelf: Shelf, line: str, columns: str) -> None:
    """azure.md section 3.5."""
    said = shelf.az(f"az acr {line} -o table")
    heading, rule, *rows = said.out.splitlines()
    assert heading.lower().split() == columns.lower().split()
    assert set(rule) <= {"-", " "}
    assert rows


# --- what cannot be done --------------------------------------------------------------------------

FAILING = (
    ("repository show -n myregistry --repository nobody", 3, "not known"),
    ("repository show -n myregistry --image team/app:nope", 3, "tag does not exist"),
    (f"repository show -n myregistry --image team/app@{NOTHING}", 3, NOTHING),
    ("repository show-tags -n myregistry --repository nobody", 1, "not known"),
    ("repository show-manifests -n myregistry --repository nobody", 1, "not known"),
    ("repository untag -n myregistry --image team/app:nope", 1, "tag does not exist"),
    ("repository update -n myregistry --image team/app:nope --write-enabled false", 1, "tag"),
    ("repository delete -n myregistry --image team/app:nope --yes", 1, "tag does not exist"),
    (f"repository delete -n myregistry --image team/app@{NOTHING} --yes", 1, NOTHING),
    ("repository delete -n myregistry --repository nobody --yes", 1, "not known"),
    ("repository delete -n myregistry --image team/app:v1", 1, "no tty available. Use --yes."),
    ("repository list -n myregistry --query '[?'", 2, "--query"),
    ("manifest show -r myregistry -n team/app:nope", 3, "not found"),
    ("manifest show-metadata -r myregistry -n nobody:nope", 3, "tag does not exist"),
    ("manifest delete -r myregistry -n team/app:nope --yes", 1, "tag does not exist"),
)


@pytest.mark.parametrize(("line", "code", "words"), FAILING)
def test_what_az_cannot_do_it_says_once_and_ullage_says_the_same(
    shelf: Shelf, line: str, code: int, words: str
) -> None:
    """azure.md section 3.2: the registry's message and request, and no second try."""
    before = shelf.registry.view.contents()
    az, ours = shelf.both(line)
    assert az.code == code, az
    assert words in az.err
    assert ours.code == code, ours
    # Usage errors end with what either would rather have had.
    if code != 2:
        # Time and request only with --debug; and the image, where the message does not name it.
        said = plain(az)[2].replace("NOW ", "").partition(" Correlation ID")[0]
        assert ours.err.startswith(said.rstrip().removesuffix(".")), (ours, az)
        assert (ours.out, ours.err.count("ERROR")) == (az.out, az.err.count("ERROR"))
    assert shelf.registry.view.contents() == before


@pytest.mark.parametrize("tool", ["az", "ours"])
def test_a_wrong_password_is_a_wrong_password(shelf: Shelf, tool: str) -> None:
    """azure.md section 1.9."""
    shell = shelf.az if tool == "az" else shelf.ours
    said = shell("az acr repository list -n myregistry", login=Login("admin", "a wrong one"))
    assert (said.code, said.out) == (1, "")
    assert "denied. Response code: 401" in said.err or tool == "ours"
    assert "a wrong one" not in said.err + shelf.registry.server.log


def test_without_the_right_az_is_told_so(shelf: Shelf) -> None:
    """azure.md sections 1.8 and 2.1: a repository-scoped token, beyond what its scope map has."""
    made = run_ullage(
        "token", "create", "--name", "reader", "--data", shelf.registry.server.data,
        "--repository", "team/*", "content/read", "metadata/read",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    password = json.loads(made.stdout)["credentials"]["passwords"][0]["value"]
    reader = Login("reader", password)
    shown = shelf.az("az acr repository list -n myregistry", login=reader)
    assert shown.json == ["team/app", "team/multi"]
    shown = shelf.az("az acr repository show -n myregistry --repository team/app", login=reader)
    assert shown.json["tagCount"] == 3
    for line in (
        "delete -n myregistry --image team/app:v1 --yes",
        "show-tags -n myregistry --repository many",
    ):
        said = shelf.az(f"az acr repository {line}", login=reader)
        assert said.code == 1
        assert said.err.count("authentication required") == 1
    assert shelf.registry.view.tags("team/app") == ["latest", "v1", "v2"]


# --- changing -------------------------------------------------------------------------------------


def test_az_locks_and_unlocks_and_a_lock_is_told_once(shelf: Shelf) -> None:
    """azure.md sections 5.4 and 3.2: 405 is told at once, and not tried again three times."""
    az, registry = shelf.az, shelf.registry
    digest = push_image(registry.http, "locks", "v1", (payload("locks"),))
    update = "az acr repository update -n myregistry --image"
    shown = az(f"{update} locks@{digest} --write-enabled false").json
    assert shown["changeableAttributes"]["writeEnabled"] is False
    assert az(f"{update} locks:v1").json["changeableAttributes"]["writeEnabled"] is True
    deleted = registry.server.log.count('"DELETE"')
    for line in (
        f"az acr repository delete -n myregistry --image locks@{digest} --yes",
        f"az acr manifest delete -r myregistry -n locks@{digest} --yes",
        "az acr repository delete -n myregistry --repository locks --yes",
    ):
        said = az(line)
        assert (said.code, said.out) == (1, "")
        assert said.err.count("The operation is disallowed on this registry, repository") == 1
        assert "Correlation ID" in said.err
    assert registry.server.log.count('"DELETE"') == deleted + 3
    registry.view.assert_pullable("locks:v1")

    manifest = f"az acr manifest update-metadata -r myregistry -n locks@{digest}"
    assert az(f"{manifest} --write-enabled true").code == 0
    assert az(f"{update} locks:v1 --delete-enabled false").code == 0
    refused = az("az acr repository untag -n myregistry --image locks:v1")
    assert (refused.code, refused.err.count("The operation is disallowed")) == (1, 1)
    assert az(f"{update} locks:v1 --delete-enabled true").code == 0
    said = az("az acr repository delete -n myregistry --repository locks --yes")
    assert said.json == {"manifestsDeleted": [digest], "tagsDeleted": ["v1"]}


def test_az_deletes_with_yes_and_warns(shelf: Shelf) -> None:
    """azure.md section 3.4: a warning instead of the question; nothing on standard output."""
    http, view = shelf.registry.http, shelf.registry.view
    digest = push_image(http, "yes", "one", (payload("yes"),))
    push_image(http, "yes", "two", (payload("yes"),))
    said = shelf.az("az acr repository delete -n myregistry --image yes:two --yes")
    assert (said.code, said.out) == (0, "")
    assert said.err == (
        f"WARNING: This operation will delete the manifest '{digest}' and all the following "
        "images: 'yes:one', 'yes:two'\n"
    )
    assert not view.has_manifest(f"yes@{digest}")
    # The last manifest takes the repository along.
    said = shelf.az("az acr repository show -n myregistry --repository yes")
    assert said.code == 3


@pytest.mark.parametrize("tool", ["az", "ours"])
def test_a_question_is_asked_until_it_is_answered(shelf: Shelf, tool: str) -> None:
    """azure.md section 3.4: yes, no, nonsense. Without a terminal: in FAILING."""
    shell = shelf.az if tool == "az" else shelf.ours
    http, view = shelf.registry.http, shelf.registry.view
    name = f"ask-{tool}"
    digest = push_image(http, name, "v1", (payload(name),))
    line = f"az acr repository delete -n myregistry --image {name}:v1"
    question = (
        f"This operation will delete the manifest '{digest}' and all the following images: "
        f"'{name}:v1'.\n{SURE}"
    )
    said = shell.typed(line, "maybe", "", "n")
    screen = _GIVES_BACK.sub("", said.out)
    assert said.code == 1
    assert screen == (f"{question}maybe\n{question}\n{question}n\nERROR: Operation cancelled.\n")
    assert view.tags(name) == ["v1"]
    said = shell.typed(f"az acr manifest delete -r myregistry -n {name}:v1", "Y")
    assert said.code == 0
    wanted = (
        f"Are you sure you want to delete the artifact '{digest}' and all manifests that refer to "
        "it? (y/n): Y\n"
    )
    assert _GIVES_BACK.sub("", said.out).endswith(wanted)
    assert not view.has_manifest(f"{name}@{digest}")


def test_az_untags_latest_if_not_told_which(shelf: Shelf) -> None:
    """azure.md section 3.1; and the image stays."""
    digest = push_image(shelf.registry.http, "untag", "latest", (b"untag",))
    said = shelf.az("az acr repository untag -n myregistry --image untag")
    assert (said.code, said.out, said.err) == (0, "", "")
    said = shelf.az("az acr repository show-manifests -n myregistry --repository untag")
    assert [(one["digest"], one["tags"]) for one in said.json] == [(digest, None)]
    said = shelf.az("az acr repository show-tags -n myregistry --repository untag")
    assert said.json == []
