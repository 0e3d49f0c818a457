"""Guessing is slow for who guesses, and for nobody else: issue 3 (limits), S7 and S39."""

import threading
import time

import httpx
import pytest

from tests.access.house import House, basic
from tests.access.keep import Keep
from ullage.oci.errors import TooManyRequests
from ullage.services import passwords
from ullage.services.doorkeeper import LoginFailed
from ullage.services.throttle import (
    CAPACITY,
    FORGET_SECONDS,
    FREE_PER_ACCOUNT,
    FREE_PER_ADDRESS,
    LONGEST_WAIT,
    Throttle,
)

PASSWORD = "a password that is long"
GUESSER, OTHER = "203.0.113.9", "192.0.2.7"


class Waiting:
    """A throttle and the time it sees."""

    def __init__(self) -> None:
        self.now = 0.0
        self.throttle = Throttle(lambda: self.now)

    def fail(self, times: int, address: str = GUESSER, name: str = "ada") -> None:
        for _ in range(times):
            self.throttle.failed(address, name)


def test_a_few_mistakes_cost_nothing() -> None:
    waiting = Waiting()
    waiting.fail(FREE_PER_ACCOUNT - 1)
    assert waiting.throttle.wait(GUESSER, "ada") == 0


def test_more_mistakes_cost_more_and_more_but_never_more_than_a_minute() -> None:
    waiting, waits = Waiting(), []
    for _ in range(20):
        waiting.fail(1)
        waits.append(waiting.throttle.wait(GUESSER, "ada"))
        waiting.now += waits[-1]
    assert waits == sorted(waits)
    assert waits[FREE_PER_ACCOUNT] > 0
    assert waits[-1] == LONGEST_WAIT


def test_another_address_is_not_locked_out_of_the_account() -> None:
    waiting = Waiting()
    waiting.fail(1000)
    assert waiting.throttle.wait(GUESSER, "ada") > 0
    assert waiting.throttle.wait(OTHER, "ada") == 0


def test_another_account_at_the_same_address_is_not_locked_out() -> None:
    waiting = Waiting()
    waiting.fail(FREE_PER_ADDRESS - 1)
    assert waiting.throttle.wait(GUESSER, "bob") == 0


def test_trying_many_accounts_from_one_address_is_slowed_too() -> None:
    waiting = Waiting()
    for number in range(FREE_PER_ADDRESS):
        waiting.fail(1, name=f"user-{number}")
    assert waiting.throttle.wait(GUESSER, "yet-another") > 0


def test_a_guesser_behind_the_same_proxy_does_not_lock_out_who_logged_in_there() -> None:
    """Behind a reverse proxy everybody has its address."""
    waiting = Waiting()
    waiting.throttle.succeeded(GUESSER, "bob")
    waiting.fail(FREE_PER_ADDRESS * 10)
    assert waiting.throttle.wait(GUESSER, "bob") == 0
    assert waiting.throttle.wait(GUESSER, "ada") > 0
    # Trust is no licence to guess.
    waiting.fail(FREE_PER_ACCOUNT + 1, name="bob")
    assert waiting.throttle.wait(GUESSER, "bob") > 0


def test_mistakes_are_forgotten_by_a_success_and_by_time() -> None:
    waiting = Waiting()
    waiting.fail(FREE_PER_ACCOUNT + 3)
    waiting.throttle.succeeded(GUESSER, "ada")
    assert waiting.throttle.wait(GUESSER, "ada") == 0
    waiting.fail(FREE_PER_ACCOUNT + 3, name="bob")
    waiting.now += FORGET_SECONDS + 1
    waiting.fail(1, name="bob")
    assert waiting.throttle.wait(GUESSER, "bob") == 0


def test_what_is_remembered_is_bounded() -> None:
    """Memory must not grow with the number of names somebody makes up."""
    throttle = Throttle(lambda: 0.0)
    for number in range(CAPACITY * 2):
        throttle.failed(GUESSER, f"user-{number}")
        throttle.succeeded(OTHER, f"user-{number}")
    assert len(throttle._failures) <= CAPACITY
    assert len(throttle._trusted) <= CAPACITY


def test_the_right_password_is_not_tried_while_the_wait_lasts(keep: Keep) -> None:
    """Else the wait would tell a guesser nothing but to go on."""
    keep.user("ada", PASSWORD)
    for _ in range(FREE_PER_ACCOUNT + 1):
        with pytest.raises((LoginFailed, TooManyRequests)):
            keep.door.login("ada", "wrong password", GUESSER)
    with pytest.raises(TooManyRequests):
        keep.door.login("ada", PASSWORD, GUESSER)
    assert keep.lets_in("ada", PASSWORD)
    keep.advance(LONGEST_WAIT)
    keep.door.login("ada", PASSWORD, GUESSER)


def test_no_memory_is_spent_on_names_that_nobody_has(keep: Keep) -> None:
    """A form may hold a name of 64 KiB, and there may be 20,000 of them."""
    before = len(keep.door._throttle._failures)
    assert not keep.lets_in("a" * 60_000, "x")
    assert len(keep.door._throttle._failures) == before


def test_a_throttled_client_is_told_when_to_come_back(house: House) -> None:
    """acr-contract 2.1: 429 TOOMANYREQUESTS with Retry-After."""
    for _ in range(FREE_PER_ACCOUNT + 1):
        house.client.get("/v2/", headers=basic("nobody-at-all", "wrong"))
    response = house.client.get("/v2/", headers=basic("nobody-at-all", "wrong"))
    assert response.status_code == 429
    assert response.json()["errors"][0]["code"] == "TOOMANYREQUESTS"
    assert int(response.headers["retry-after"]) > 0
    assert house.client.get("/v2/", headers=house.basic("reader")).status_code == 200


# --- passwords are slow to check, once ------------------------------------------------------------


@pytest.mark.parametrize("slot", [0, 1])
def test_a_password_is_hashed_once_and_then_remembered(
    keep: Keep, slot: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a token's second one: a client that sends Basic each time is not 100x slower."""
    password = keep.token("ci", "content/read")[slot]
    checks = 0
    check = passwords._HASHER.verify

    def counted(hashed: str, given: str) -> bool:
        nonlocal checks
        checks += 1
        return check(hashed, given)

    monkeypatch.setattr(type(passwords._HASHER), "verify", staticmethod(counted))
    assert keep.lets_in("ci", password)
    first = checks
    for _ in range(10):
        assert keep.lets_in("ci", password)
    assert (first > 0, checks) == (True, first)
    keep.advance(301)
    assert keep.lets_in("ci", password)
    assert checks > first


def test_a_wrong_password_costs_the_same_whoever_it_is_for(
    keep: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S7, CVE-2023-20902: nobody, a user, a token with two passwords, one that is disabled."""
    keep.user("ada", PASSWORD)
    keep.user("gone", PASSWORD)
    keep.token("ci", "content/read")
    keep.token("empty", "content/read", no_passwords=True)
    keep.token("off", "content/read", status="disabled")
    checks = 0
    check = passwords._HASHER.verify

    def counted(hashed: str, given: str) -> bool:
        nonlocal checks
        checks += 1
        return check(hashed, given)

    monkeypatch.setattr(type(passwords._HASHER), "verify", staticmethod(counted))
    costs = {}
    for name in ("nobody", "ada", "ci", "empty", "off"):
        checks = 0
        assert not keep.lets_in(name, "a wrong password")
        costs[name] = checks
    assert set(costs.values()) == {2}, costs


def test_a_flood_of_guesses_does_not_keep_pulls_waiting(house: House) -> None:
    """S39: passwords are hashed by threads of their own, at both endpoints that take them."""
    pull = house.bearer("reader", "repository:team/app:pull")
    stop = threading.Event()

    def guess(number: int) -> None:
        with httpx.Client(base_url=house.server.url, timeout=60) as client:
            attempt = 0
            while not stop.is_set():
                attempt += 1
                path = "/oauth2/token" if number % 2 else "/v2/"
                client.get(path, headers=basic(f"guess-{number}-{attempt}", "x"))

    guessers = [threading.Thread(target=guess, args=(number,)) for number in range(24)]
    for guesser in guessers:
        guesser.start()
    try:
        slowest = 0.0
        for _ in range(20):
            began = time.perf_counter()
            response = house.client.get("/v2/team/app/manifests/v1", headers=pull)
            slowest = max(slowest, time.perf_counter() - began)
            assert response.status_code == 200
    finally:
        stop.set()
        for guesser in guessers:
            guesser.join()
    # 24 guesses, two of them at a time, would take seconds on the same threads.
    assert slowest < 2.0
