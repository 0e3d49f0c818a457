"""Documents are read strictly, in words that say what is wrong, and written as plain JSON."""

from __future__ import annotations

import json
from typing import Annotated, Any

import pytest

from ullage.documents import (
    UNSET,
    Count,
    Document,
    Duration,
    Meta,
    RequestBody,
    Size,
    Text,
    UnsetType,
    changed,
    member,
    packed,
    plain,
    read,
    stored,
    unpacked,
)
from ullage.oci.digest import parse_digest
from ullage.oci.errors import PlanInvalid

DIGEST = parse_digest("sha256:" + "0" * 64)


class Inner(RequestBody, frozen=True):
    age: Duration | None = None
    name: Text | None = None


class Asked(RequestBody, frozen=True):
    flag: bool = False
    count: Count | None = None
    size: Size | None = None
    names: Annotated[tuple[str, ...], Meta(max_length=2)] = ()
    inner: Inner | None = None
    rules: tuple[Inner, ...] = ()
    kind: str = member(default="", name="class")


class Told(Document, frozen=True):
    digest: str
    more: str | UnsetType = UNSET
    none: str | None = None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"flag": 1}, "flag: expected true or false"),
        ({"flag": None}, "flag: expected true or false"),
        ({"count": -1}, "count: expected a whole number"),
        ({"count": True}, "count: expected a whole number"),
        ({"count": 1.0}, "count: expected a whole number"),
        ({"count": "7"}, "count: expected a whole number"),
        ({"count": 2**63}, "count: expected a whole number"),
        ({"size": []}, "size: expected a size such as 1048576 or 10GB"),
        ({"names": "a"}, "names: expected a list"),
        ({"names": [1]}, "names[0]: expected a text"),
        ({"names": ["a"] * 3}, "names: expected a list of at most 2"),
        ({"inner": []}, "inner: expected an object"),
        ({"inner": {"ago": "7d"}}, "inner: unknown: ago"),
        ({"rules": [{}, {"age": 7}]}, "rules[1].age: expected a duration such as 7d"),
        ({"inner": {"name": ""}}, "inner.name: expected a text"),
        ({"class": 1}, "class: expected a text"),
        ({"kind": "x", "a": 1}, "unknown: a, kind"),
        ([], "expected an object"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(body: Any, message: str) -> None:
    with pytest.raises(PlanInvalid) as refused:
        read(body, Asked, PlanInvalid)
    assert refused.value.message == message


def test_a_member_that_is_missing_is_named() -> None:
    class Needed(RequestBody, frozen=True):
        agent: str

    with pytest.raises(PlanInvalid, match=r"^rule 1: agent: it is missing$"):
        read({}, Needed, PlanInvalid, "rule 1")


def test_unknown_words_are_details_for_programs() -> None:
    with pytest.raises(PlanInvalid) as refused:
        read({f"word{n:02}": 1 for n in range(20)}, Asked, PlanInvalid)
    assert refused.value.detail == {"unknown": [f"word{n:02}" for n in range(10)]}
    assert len(refused.value.message) < 300


def test_names_and_digests_are_written_as_texts() -> None:
    told = Told(DIGEST)
    assert type(plain(told)["digest"]) is str
    assert plain([told]) == [{"digest": str(DIGEST), "none": None}]
    assert json.loads(packed(told)) == plain(told)
    assert unpacked(packed(told), Told) == told == changed(told, digest=str(DIGEST))


def test_what_has_no_json_is_a_defect_and_not_written_somehow() -> None:
    with pytest.raises(NotImplementedError):
        plain({"at": object()})


def test_a_stored_document_may_have_what_is_not_known_any_more() -> None:
    assert stored({"digest": "x", "old": [1]}, Told) == Told("x")
