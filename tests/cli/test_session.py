"""Registries that misbehave: what is tried again, and what is believed."""

from typing import Any

import pytest

from tests.cli.conftest import Ullage
from tests.cli.scripted import Script, Step
from ullage.cli.client.saved import Login
from ullage.cli.commands.delete_images import freed
from ullage.cli.shell.errors import Failure, Refused

BEARER = {"WWW-Authenticate": 'Bearer realm="http://evil.example.com/oauth2/token",service="s"'}
WEAK = {"WWW-Authenticate": BEARER["WWW-Authenticate"] + ',scope="x",error="insufficient_scope"'}
TOKEN: Step = (200, {}, {"access_token": "t"})
OK: Step = (200, {}, {"tags": []})


def test_a_password_goes_to_the_registry_and_to_nobody_else() -> None:
    """azure.md section 1.2, the password grant; the realm's host is not believed."""
    script = Script((401, BEARER, None), TOKEN, OK)
    with script.serving(Login("anna", "p&ss")) as registry:
        registry.get("/x")
    assert script.asked == ["GET /x", "POST /oauth2/token", "GET /x"]
    assert script.shown == [None, None, "Bearer t"]
    form = "service=s&grant_type=password&scope=a%3Ab%3Ac&username=anna&password=p%26ss"
    assert script.bodies[1] == form


def test_a_registry_that_wants_basic_gets_basic() -> None:
    script = Script((401, {"WWW-Authenticate": 'Basic realm="x"'}, None), OK)
    with script.serving(Login("anna", "pass")) as registry:
        registry.get("/x")
    assert script.shown == [None, "Basic YW5uYTpwYXNz"]


def test_nobody_gets_a_token_for_nobody() -> None:
    script = Script((401, BEARER, None), TOKEN, OK)
    with script.serving() as registry:
        registry.get("/x")
    assert script.bodies[1] == "service=s&grant_type=password&scope=a%3Ab%3Ac"


def test_an_expired_token_is_made_anew_and_a_weak_one_is_not() -> None:
    expired = {"WWW-Authenticate": BEARER["WWW-Authenticate"] + ',error="invalid_token"'}
    again: Step = (200, {}, {"access_token": "t2"})
    script = Script((401, BEARER, None), TOKEN, OK, (401, expired, None), again, OK)
    with script.serving(Login("anna", "x")) as registry:
        registry.get("/x")
        registry.get("/y")
    assert script.shown[-1] == "Bearer t2"
    script = Script((401, BEARER, None), TOKEN, (401, WEAK, None))
    with script.serving(Login("anna", "x")) as registry, pytest.raises(Refused) as caught:
        registry.get("/x")
    assert (caught.value.status, str(caught.value)) == (401, "Authentication required.")


def test_a_registry_that_refuses_for_ever_is_not_asked_for_ever() -> None:
    script = Script(*[(401, BEARER, None), TOKEN] * 20)
    with script.serving(Login("anna", "x")) as registry, pytest.raises(Refused):
        registry.get("/x")
    assert len(script.asked) < 10


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_passes_is_tried_again(status: int) -> None:
    script = Script((status, {"Retry-After": "7"}, None), (status, {}, None), OK)
    with script.serving() as registry:
        registry.get("/x")
    assert script.waited == [7, 1]


def test_what_does_not_pass_is_an_error_after_four_tries() -> None:
    script = Script(*[(503, {"Retry-After": "100000"}, None)] * 4)
    with script.serving() as registry, pytest.raises(Refused) as caught:
        registry.get("/x")
    assert str(caught.value) == "Could not get the requested data."
    assert script.waited == [30, 30, 30]


@pytest.mark.parametrize("lost", [(0, {}, None), (504, {}, None)])
def test_a_deletion_whose_answer_was_lost_is_done_when_the_second_try_finds_nothing(
    lost: Step,
) -> None:
    """azure.md section 5.1: clients retry after a time-out; then it is 404."""
    script = Script(OK, lost, (404, {}, None))
    with script.serving() as registry:
        registry.get("/x")
        registry.delete("/y")
    script = Script((404, {}, None))
    with script.serving() as registry, pytest.raises(Refused):
        registry.delete("/y")


@pytest.mark.parametrize(
    ("status", "content", "expected"),
    [
        (401, None, "Authentication required."),
        (404, None, "The requested data does not exist."),
        (405, None, "This operation is not supported."),
        (409, None, "Failed to request data due to a conflict."),
        (500, None, "Could not get the requested data."),
        (404, {"errors": []}, "The requested data does not exist."),
        (404, {"errors": [{"message": "gone"}]}, "Error: gone."),
        (404, {"errors": [{"message": "gone.", "detail": "why"}]}, "Error: gone. Detail: why."),
        (404, {"errors": [{"message": "gone", "detail": {"a": 1}}]}, "Error: gone."),
        (404, [1], "The requested data does not exist."),
    ],
)
def test_errors_are_told_in_azs_words(status: int, content: Any, expected: str) -> None:
    """azure.md section 3.2."""
    script = Script((status, {}, content))
    with script.serving() as registry, pytest.raises(Refused) as caught:
        registry.get("/x")
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([(200, {}, {"nothing": 1})], "the answer has no 'tags'"),
        ([(200, {}, [1])], "the answer has no 'tags'"),
        ([(200, {"Link": '</x?n=100>; rel="next"'}, {"tags": ["a"]})] * 2, "the same page"),
    ],
)
def test_a_list_that_is_none_or_never_ends_is_an_error(steps: list[Step], expected: str) -> None:
    with Script(*steps).serving() as registry, pytest.raises(Failure, match=expected):
        list(registry.pages("/x", "tags"))


@pytest.mark.parametrize("content", [None, []])
def test_an_empty_page_is_null_or_empty(content: Any) -> None:
    """azure.md section 0, rule 5."""
    with Script((200, {}, {"tags": content})).serving() as registry:
        assert list(registry.pages("/x", "tags")) == []


def test_pages_are_followed_with_the_query_that_link_has() -> None:
    """azure.md section 2.2: percent-decoded, `+` as it is, our own path."""
    link = {"Link": '</elsewhere?last=a%2Bb+c&n=100&orderby=>; rel="next"'}
    script = Script((200, link, {"tags": ["a"]}), (200, {}, {"tags": ["b"]}))
    with script.serving() as registry:
        assert list(registry.pages("/x", "tags", orderby="timeasc")) == ["a", "b"]
    assert script.asked == [
        "GET /x?n=100&orderby=timeasc",
        "GET /x?last=a%2Bb%2Bc&n=100&orderby=",
    ]


def test_proxies_are_for_other_machines(
    ullage: Ullage, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """HTTP_PROXY as everywhere; never for loopback."""
    script = Script((200, {}, {"repositories": ["app"]}))
    with script.serving() as registry:
        monkeypatch.setenv("HTTP_PROXY", registry.origin.url)
        done = ullage("repository", "list", "--name", "http://registry.example.com")
        assert done.out == '[\n  "app"\n]\n'
    assert script.asked == ["GET http://registry.example.com/v2/_catalog?n=100"]


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ((200, {}, {"freed_bytes": 18000, "freed_later_bytes": 0}), "This gives back 17.6 KiB.\n"),
        ((201, {}, {"freed_bytes": 0}), "This gives back 0 B.\n"),
        (
            (200, {}, {"freed_bytes": 2**20, "freed_later_bytes": 2**30}),
            "This gives back 1.0 MiB, 1.0 GiB more later.\n",
        ),
        ((404, {}, None), ""),
        ((401, WEAK, None), ""),
        ((500, {}, None), ""),
        ((200, {}, {"freed_bytes": "many"}), ""),
        ((200, {}, [1]), ""),
        ((0, {}, None), ""),
    ],
)
def test_the_bytes_that_come_back_are_told_where_the_registry_knows_them(
    step: Step, expected: str
) -> None:
    """Azure's registry has no plans: then the question is as az puts it."""
    script = Script(step)
    with script.serving(Login("anna", "x")) as registry:
        registry._authorization = "Bearer t"
        assert freed(registry, {"repositories": ["app"]}) == expected
    assert script.bodies == ['{"repositories": ["app"]}']
