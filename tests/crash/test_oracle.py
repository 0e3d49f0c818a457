"""The oracle of the kill suites itself: logs that it must follow, and logs it must not believe."""

from typing import Any

import pytest

from tests.crash.oracle import Contradiction, Entry, Replay

INDEX = {"index": ["amd64", "arm64"]}


def log(*said: tuple[str, str | None, dict[str, Any]]) -> list[Entry]:
    """Entries about the repository `a`: an action, its target, its detail."""
    return [
        Entry(number, float(number), f"c-{number}", action, "a", target, detail)
        for number, (action, target, detail) in enumerate(said, 1)
    ]


def push(digest: str, *tags: str) -> tuple[str, str, dict[str, Any]]:
    return "manifest.push", digest, {"tags": [*tags]}


def delete(
    *digests: str, tags: tuple[str, ...] = (), operation: str | None = None
) -> tuple[str, str, dict[str, Any]]:
    kept = {"operation": operation}
    return "manifest.delete", digests[0], {"manifests": [*digests], "tags": [*tags]} | kept


def untag(tag: str, operation: str | None = None) -> tuple[str, str, dict[str, Any]]:
    return "tag.delete", tag, {"operation": operation} if operation else {}


def delete_all(operation: str | None = None) -> tuple[str, None, dict[str, Any]]:
    return "repository.delete", None, {"operation": operation} if operation else {}


def restore(operation: str, manifests: int, tags: int) -> tuple[str, str, dict[str, Any]]:
    return "operation.restore", operation, {"manifest_count": manifests, "tag_count": tags}


def purge(
    *, manifests: tuple[str, ...] = (), tags: tuple[str, ...] = (), operation: str | None = None
) -> tuple[str, str, dict[str, Any]]:
    detail = {"manifests": [*manifests], "tags": [*tags]}
    return "purge.delete", "job", detail | ({"operation": operation} if operation else {})


def replayed(*said: tuple[str, str | None, dict[str, Any]]) -> Replay:
    replay = Replay()
    replay.learn(INDEX)
    replay.apply(log(*said))
    return replay


PLATFORMS = (push("amd64"), push("arm64"), push("index", "v1"))


@pytest.mark.parametrize(
    ("said", "manifests", "tags", "restorable"),
    [
        pytest.param(
            [push("one", "v1", "v2")], {"one"}, {"v1": "one", "v2": "one"}, set(), id="push"
        ),
        pytest.param(
            [push("one", "v1"), push("two", "v1")],
            {"one", "two"},
            {"v1": "two"},
            set(),
            id="re-tag",
        ),
        pytest.param([push("one", "v1"), untag("v1")], {"one"}, {}, set(), id="untag"),
        pytest.param(
            [push("one", "v1"), delete("one", tags=("v1",))], set(), {}, set(), id="delete"
        ),
        pytest.param(
            [push("one", "v1"), delete("one", tags=("v1",), operation="x")],
            set(),
            {},
            {"x"},
            id="delete softly",
        ),
        pytest.param(
            [push("one", "v1"), delete("one", tags=("v1",), operation="x"), restore("x", 1, 1)],
            {"one"},
            {"v1": "one"},
            set(),
            id="restore",
        ),
        pytest.param(
            [
                push("one", "v1"),
                push("two"),
                delete_all("x"),
                push("two", "new"),
                restore("x", 2, 1),
            ],
            {"one", "two"},
            {"v1": "one", "new": "two"},
            set(),
            id="restore into what came since",
        ),
        pytest.param(
            [push("one", "v1"), untag("v1", "x"), restore("x", 0, 1)],
            {"one"},
            {"v1": "one"},
            set(),
            id="restore a tag",
        ),
        pytest.param(
            [
                *PLATFORMS,
                delete("index", "arm64", tags=("v1",), operation="x"),
                delete("amd64"),
                restore("x", 3, 1),
            ],
            {"index", "amd64", "arm64"},
            {"v1": "index"},
            set(),
            id="what stayed was kept as well",
        ),
        pytest.param(
            [
                push("one", "v1"),
                purge(tags=("v1",), operation="job"),
                purge(manifests=("one",), operation="job"),
                restore("job", 1, 0),
                restore("job", 0, 1),
            ],
            {"one"},
            {"v1": "one"},
            set(),
            id="take a purge back",
        ),
        pytest.param(
            [push("one"), delete("one", operation="x"), ("operation.free", "x", {})],
            set(),
            {},
            set(),
            id="free",
        ),
        pytest.param(
            [push("one", "v1"), delete_all()], set(), {}, set(), id="delete the repository"
        ),
    ],
)
def test_a_log_says_what_is_there(
    said: list[tuple[str, str | None, dict[str, Any]]],
    manifests: set[str],
    tags: dict[str, str],
    restorable: set[str],
) -> None:
    replay = replayed(*said)
    live = replay.live.get("a")
    assert (live.manifests if live else set()) == manifests
    assert (live.tags if live else {}) == tags
    assert replay.restorable() == restorable


@pytest.mark.parametrize(
    "said",
    [
        pytest.param([untag("v1")], id="a tag that was not there"),
        pytest.param([push("one", "v1"), untag("v1"), untag("v1")], id="a tag twice"),
        pytest.param([delete("one")], id="a manifest that was not there"),
        pytest.param([push("one"), delete("one"), delete("one")], id="a manifest twice"),
        pytest.param([push("one", "v1"), delete("one")], id="a tag that goes unmentioned"),
        pytest.param([push("amd64"), push("index")], id="an index without its parts"),
        pytest.param([*PLATFORMS, delete("amd64")], id="a part of an index that stays"),
        pytest.param([restore("x", 1, 1)], id="an operation that was not there"),
        pytest.param(
            [push("one"), delete("one", operation="x"), restore("x", 1, 0), restore("x", 1, 0)],
            id="a restore twice",
        ),
        pytest.param(
            [push("one"), push("two"), delete("one", "two", operation="x"), restore("x", 1, 0)],
            id="a restore of a part",
        ),
        pytest.param(
            [push("one", "v1"), delete_all("x"), push("two", "v1"), restore("x", 1, 1)],
            id="a restore over a tag",
        ),
        pytest.param([("operation.free", "x", {})], id="freeing what was not there"),
        pytest.param([("manifest.vanish", "one", {})], id="an unknown action"),
    ],
)
def test_a_log_that_cannot_be_true_is_not_believed(
    said: list[tuple[str, str | None, dict[str, Any]]],
) -> None:
    with pytest.raises(Contradiction):
        replayed(*said)


def test_a_log_out_of_order_is_not_believed() -> None:
    replay = replayed(push("one"))
    with pytest.raises(Contradiction):
        replay.apply(log(push("two")))
