"""The lock matrix of azure.md section 5.4 and deletion.md section 2: object, attribute, operation.

What is expected is written down here, in words of azure.md, and nowhere taken from the code.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.server.acr.test_attributes import push_index
from tests.server.pushing import (
    encoded,
    image,
    push_blob,
    push_image,
    put_manifest,
    refused,
    start_upload,
)
from tests.support.registry import INDEX, MANIFEST
from tests.support.server import UllageServer
from ullage.oci.digest import Digest, digest_of

LOCKED = (405, "REGISTRY_DISALLOWED_OPERATION")
MESSAGE = (
    "The operation is disallowed on this registry, repository or image. View troubleshooting steps "
    "at https://aka.ms/acr/faq/#why-does-my-pull-or-push-request-fail-with-disallowed-operation"
)
OBJECTS = ("repository", "manifest", "tag")
ATTRIBUTES = ("deleteEnabled", "writeEnabled", "readEnabled", "listEnabled")
_fresh = itertools.count()


@dataclass
class Scene:
    """A repository with one image under two tags; `v1` is the one that is locked."""

    client: httpx.Client
    name: str
    body: dict[str, Any]
    digest: Digest
    other: Digest
    session: str
    loose: Digest

    def lock(self, kind: str, attribute: str, value: bool = False) -> None:
        path = {"repository": "", "manifest": f"/_manifests/{self.digest}", "tag": "/_tags/v1"}
        answer = self.client.patch(f"/acr/v1/{self.name}{path[kind]}", json={attribute: value})
        assert answer.status_code == 200, answer.text


def scene(client: httpx.Client) -> Scene:
    name = f"locks/{next(_fresh)}"
    # Without blobs of their own: what they hold makes no difference here, and takes its time.
    body, other_body = _index(0), _index(1)
    for tag in ("v1", "v2"):
        assert put_manifest(client, name, tag, body).status_code == 201
    assert put_manifest(client, name, "other", other_body).status_code == 201
    loose = digest_of(b"in no image")
    mount = f"/v2/{name}/blobs/uploads/?from=locks/source&mount={loose}"
    assert client.post(mount).status_code == 201
    digest, other = (digest_of(encoded(each)) for each in (body, other_body))
    return Scene(client, name, body, digest, other, start_upload(client, name), loose)


def _stock(client: httpx.Client) -> None:
    """What scenes are made from."""
    for data in (b"from elsewhere", b"in no image"):
        push_blob(client, "locks/source", data)


def _index(number: int) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [],
        "annotations": {"number": str(number)},
    }


OPERATIONS: dict[str, Callable[[Scene], httpx.Response]] = {
    "delete the image by digest": lambda s: s.client.delete(f"/v2/{s.name}/manifests/{s.digest}"),
    "untag v1": lambda s: s.client.delete(f"/acr/v1/{s.name}/_tags/v1"),
    "untag v1 by OCI": lambda s: s.client.delete(f"/v2/{s.name}/manifests/v1"),
    "untag v2": lambda s: s.client.delete(f"/acr/v1/{s.name}/_tags/v2"),
    "delete another image": lambda s: s.client.delete(f"/v2/{s.name}/manifests/{s.other}"),
    "delete the repository": lambda s: s.client.delete(f"/acr/v1/{s.name}"),
    "delete a loose blob": lambda s: s.client.delete(f"/v2/{s.name}/blobs/{s.loose}"),
    "push v1 again": lambda s: put_manifest(s.client, s.name, "v1", s.body),
    "push the image again": lambda s: put_manifest(s.client, s.name, s.digest, s.body),
    "give the image a new tag": lambda s: put_manifest(s.client, s.name, "v3", s.body),
    "move v1": lambda s: put_manifest(s.client, s.name, "v1", _index(1)),
    "move v1 with a push by digest": lambda s: s.client.put(
        f"/v2/{s.name}/manifests/{s.other}?tag=v1",
        content=encoded(_index(1)),
        headers={"Content-Type": INDEX},
    ),
    "move v2": lambda s: put_manifest(s.client, s.name, "v2", _index(1)),
    "push another image": lambda s: put_manifest(s.client, s.name, "other", _index(1)),
    "start an upload": lambda s: s.client.post(f"/v2/{s.name}/blobs/uploads/"),
    "upload a blob": lambda s: s.client.post(
        f"/v2/{s.name}/blobs/uploads/?digest={digest_of(b'new')}", content=b"new"
    ),
    "finish an upload": lambda s: s.client.put(
        f"{s.session}?digest={digest_of(b'old')}", content=b"old"
    ),
    "mount a blob": lambda s: s.client.post(
        f"/v2/{s.name}/blobs/uploads/?from=locks/source&mount={digest_of(b'from elsewhere')}"
    ),
    "pull v1": lambda s: s.client.get(f"/v2/{s.name}/manifests/v1"),
    "ask for v1": lambda s: s.client.head(f"/v2/{s.name}/manifests/v1"),
    "pull v2": lambda s: s.client.get(f"/v2/{s.name}/manifests/v2"),
    "pull by digest": lambda s: s.client.get(f"/v2/{s.name}/manifests/{s.digest}"),
    "pull a blob": lambda s: s.client.get(f"/v2/{s.name}/blobs/{s.loose}"),
    "pull another image": lambda s: s.client.get(f"/v2/{s.name}/manifests/other"),
    "list": lambda s: s.client.get(f"/acr/v1/{s.name}/_manifests"),
    "show v1": lambda s: s.client.get(f"/acr/v1/{s.name}/_tags/v1"),
    "show the image": lambda s: s.client.get(f"/acr/v1/{s.name}/_manifests/{s.digest}"),
    "unlock": lambda s: s.client.patch(f"/acr/v1/{s.name}/_tags/v1", json={"readEnabled": True}),
}


_EVERY_CHANGE = {
    "delete the image by digest",
    "untag v1",
    "untag v1 by OCI",
    "untag v2",
    "delete another image",
    "delete the repository",
    "delete a loose blob",
    "push v1 again",
    "push the image again",
    "give the image a new tag",
    "move v1",
    "move v1 with a push by digest",
    "move v2",
    "push another image",
    "start an upload",
    "upload a blob",
    "finish an upload",
    "mount a blob",
}
_DELETING = {"delete the image by digest", "delete the repository"}
# azure.md section 5.4: what each switch that is off refuses; nothing else is refused.
REFUSED: dict[tuple[str, str], set[str]] = {
    ("repository", "deleteEnabled"): {"delete the repository"},
    ("repository", "writeEnabled"): _EVERY_CHANGE,
    ("repository", "readEnabled"): {
        "pull v1",
        "ask for v1",
        "pull v2",
        "pull by digest",
        "pull a blob",
        "pull another image",
    },
    ("manifest", "deleteEnabled"): _DELETING,
    ("manifest", "writeEnabled"): _DELETING
    | {"push v1 again", "push the image again", "give the image a new tag"},
    ("manifest", "readEnabled"): {"pull v1", "ask for v1", "pull v2", "pull by digest"},
    ("tag", "deleteEnabled"): _DELETING | {"untag v1", "untag v1 by OCI"},
    ("tag", "writeEnabled"): _DELETING
    | {
        "untag v1",
        "untag v1 by OCI",
        "push v1 again",
        "move v1",
        "move v1 with a push by digest",
    },
    ("tag", "readEnabled"): {"pull v1", "ask for v1"},
}


@pytest.fixture(scope="module", params=["sqlite", pytest.param("pg", marks=pytest.mark.postgresql)])
def each(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """A client of a server on each engine in turn."""
    arguments: tuple[str, ...] = ()
    if request.param == "pg":
        arguments = ("--database", request.getfixturevalue("locks_url"))
    with (
        UllageServer(tmp_path_factory.mktemp("locks") / "data", *arguments) as server,
        httpx.Client(base_url=server.url, timeout=30) as client,
    ):
        _stock(client)
        yield client
        server.assert_no_500()


@pytest.fixture(scope="module")
def locks_url(request: pytest.FixtureRequest) -> Iterator[str]:
    with request.getfixturevalue("postgres_server").fresh_database() as url:
        yield url


@pytest.mark.parametrize("attribute", ATTRIBUTES)
@pytest.mark.parametrize("kind", OBJECTS)
@pytest.mark.thorough
def test_each_switch_refuses_what_it_says_and_nothing_else(
    each: httpx.Client, kind: str, attribute: str
) -> None:
    """azure.md section 5.4."""
    refusing = REFUSED.get((kind, attribute), set())
    s: Scene | None = None
    for operation, do in OPERATIONS.items():
        if s is None:
            s = scene(each)
            s.lock(kind, attribute)
        answer = do(s)
        if operation not in refusing:
            assert answer.status_code < 300, (operation, answer.text)
            # What it used up is made anew for the next one.
            s = None if operation in _EVERY_CHANGE else s
        elif answer.request.method == "HEAD":
            assert answer.status_code == 405
        else:
            assert refused(answer) == LOCKED, operation
            error = answer.json()["errors"][0]
            assert error["message"] == MESSAGE
            # A text, because that is what az shows.
            assert error["detail"].startswith(f"{attribute} is false on {kind} '")


def test_what_is_unlocked_again_can_be_changed_as_before(client: httpx.Client) -> None:
    """azure.md section 5.4: a lock never prevents its own removal."""
    _stock(client)
    for kind, attribute in REFUSED:
        s = scene(client)
        s.lock(kind, attribute)
        s.lock(kind, attribute, True)
        assert OPERATIONS["move v1"](s).status_code == 201
        assert OPERATIONS["delete the image by digest"](s).status_code == 202
        assert OPERATIONS["delete the repository"](s).status_code == 202


def test_all_operations_are_in_the_matrix() -> None:
    assert set().union(*REFUSED.values()) <= OPERATIONS.keys()


@pytest.mark.parametrize("attribute", ["deleteEnabled", "writeEnabled"])
@pytest.mark.parametrize("by", ["manifest", "tag"])
@pytest.mark.parametrize("what", ["child", "referrer"])
def test_a_deletion_that_would_take_something_locked_along_is_refused(
    client: httpx.Client, name: str, what: str, by: str, attribute: str
) -> None:
    """deletion.md section 2, cascades: all or nothing, and the answer names what is locked."""
    root, locked, tag = _root_with(client, name, what, tagged=by == "tag")
    path = f"_tags/{tag}" if by == "tag" else f"_manifests/{locked}"
    assert client.patch(f"/acr/v1/{name}/{path}", json={attribute: False}).status_code == 200
    answer = client.delete(f"/v2/{name}/manifests/{root}")
    if what == "child" and by == "tag":
        # A tagged child stays behind anyway.
        assert answer.status_code == 202
        assert client.get(f"/v2/{name}/manifests/{locked}").status_code == 200
        return
    assert refused(answer) == LOCKED
    named = f"tag '{tag}'" if by == "tag" else f"manifest '{locked}'"
    assert answer.json()["errors"][0]["detail"] == (
        f"{attribute} is false on {named} of repository '{name}'"
    )
    for digest in (root, locked):
        assert client.get(f"/v2/{name}/manifests/{digest}").status_code == 200
    assert client.patch(f"/acr/v1/{name}/{path}", json={attribute: True}).status_code == 200
    assert client.delete(f"/v2/{name}/manifests/{root}").status_code == 202
    assert client.get(f"/v2/{name}/manifests/{locked}").status_code == 404


def _root_with(
    client: httpx.Client, name: str, what: str, *, tagged: bool
) -> tuple[Digest, Digest, str]:
    """An image or index, and what a deletion of it would take along."""
    if what == "referrer":
        root = push_image(client, name, "root")
        subject = {"mediaType": MANIFEST, "digest": root, "size": 1}
        body = image(client, name, [b"signature"], subject=subject)
        held = digest_of(encoded(body))
        put_manifest(client, name, "held" if tagged else held, body)
        return root, held, "held"
    held = push_image(client, name, "held")
    root = push_index(client, name, "root", [held])
    if not tagged:
        client.delete(f"/acr/v1/{name}/_tags/held")
    return root, held, "held"


def test_the_last_image_of_a_repository_that_may_not_go_stays(
    client: httpx.Client, name: str
) -> None:
    """deleteEnabled=false on a repository: it would go with the last image in it."""
    first, last = (push_image(client, name, tag, [tag.encode()]) for tag in ("a", "b"))
    client.patch(f"/acr/v1/{name}", json={"deleteEnabled": False})
    assert client.delete(f"/v2/{name}/manifests/{first}").status_code == 202
    answer = client.delete(f"/v2/{name}/manifests/{last}")
    assert refused(answer) == LOCKED
    assert answer.json()["errors"][0]["detail"] == (
        f"deleteEnabled is false on repository '{name}'"
    )
    assert client.delete(f"/acr/v1/{name}/_tags/b").status_code == 202


def test_nothing_is_mounted_from_where_nothing_may_be_pulled(
    client: httpx.Client, name: str
) -> None:
    """A mount reads; it then looks like a blob that is not there, and is an upload."""
    push_image(client, name, "v1")
    layer = digest_of(b"layer")
    client.patch(f"/acr/v1/{name}", json={"readEnabled": False})
    mount = f"/v2/{name}/elsewhere/blobs/uploads/?mount={layer}&from={name}"
    assert client.post(mount).status_code == 202
    # Whoever pushes here need not upload what is here; that gives no bytes away.
    assert client.head(f"/v2/{name}/blobs/{layer}").status_code == 200
    client.patch(f"/acr/v1/{name}", json={"readEnabled": True})
    assert client.post(mount).status_code == 201


def test_a_moved_tag_keeps_its_attributes(client: httpx.Client, name: str) -> None:
    """azure.md section 5.6: they are the tag's, not those of what it points to."""
    push_image(client, name, "v1")
    client.patch(f"/acr/v1/{name}/_tags/v1", json={"deleteEnabled": False})
    moved = push_image(client, name, "v1", [b"newer"])
    tag = client.get(f"/acr/v1/{name}/_tags/v1").json()["tag"]
    assert (tag["digest"], tag["changeableAttributes"]["deleteEnabled"]) == (moved, False)
    assert refused(client.delete(f"/v2/{name}/manifests/{moved}")) == LOCKED
