"""Guessing is slow for the client that guesses, and for no other: reliability.md S7 and S39."""

import asyncio
import itertools
import math
import select
import socket
import threading
import time
from contextlib import ExitStack, suppress
from typing import Self

import httpx
import pytest

from tests.access.house import House, basic
from tests.access.keep import HERE, Keep
from ullage.accounts import passwords
from ullage.accounts.authenticator import LoginFailed
from ullage.accounts.throttle import (
    ACCOUNT_TURN_SECONDS,
    ADDRESS_DRAIN,
    CAPACITY,
    FORGET_SECONDS,
    FREE_PER_ACCOUNT,
    FREE_PER_ADDRESS,
    LONGEST_WAIT,
    MemoryCounts,
    Throttle,
    network_of,
)
from ullage.oci.errors import TooManyRequests
from ullage.server.http.threads import FairThreads, Line

PASSWORD = "a password that is long"
GUESSER, OTHER = "203.0.113.9", "192.0.2.7"


class Waiting:
    """A throttle and the time it sees."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.counts = MemoryCounts(lambda: self.now)
        self.throttle = Throttle(self.counts)
        self._guesses = itertools.count()

    def fail(self, times: int, address: str = GUESSER, name: str = "ada") -> None:
        for _ in range(times):
            self.throttle.failed(address, name, f"guess {next(self._guesses)}")

    def wait(self, address: str = GUESSER, name: str = "ada") -> float:
        """For a password that was wrong before, which no turn is for."""
        self.throttle._wrong[self.throttle._seal(network_of(address), name, "old")] = self.now
        return self.throttle.wait(address, name, "old")

    def look(self, password: str, address: str = GUESSER, name: str = "ada") -> bool:
        """Whether a password is looked at now; if so, it is wrong unless it is "right"."""
        if self.throttle.wait(address, name, password) > 0:
            return False
        if password == "right":
            self.throttle.succeeded(address, name)
        else:
            self.throttle.failed(address, name, password)
        return True


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:0:0:9", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("", "", True),
    ],
)
def test_addresses_of_one_ipv6_network_are_one(one: str, other: str, together: bool) -> None:
    """RFC 6177: a customer has 2**64 of them to guess from."""
    waiting = Waiting()
    waiting.fail(FREE_PER_ADDRESS, address=one)
    assert (waiting.wait(other) > 0) is together


def test_a_few_mistakes_cost_nothing() -> None:
    waiting = Waiting()
    waiting.fail(FREE_PER_ACCOUNT - 1)
    assert waiting.wait() == 0


def test_more_mistakes_cost_more_and_more_but_never_more_than_a_minute() -> None:
    waiting, waits = Waiting(), []
    for _ in range(20):
        waiting.fail(1)
        waits.append(waiting.wait())
        waiting.now += waits[-1]
    assert waits == sorted(waits)
    assert waits[FREE_PER_ACCOUNT] > 0
    assert waits[-1] == LONGEST_WAIT


def test_another_address_is_not_locked_out_of_the_account() -> None:
    waiting = Waiting()
    waiting.fail(1000)
    assert waiting.wait(GUESSER) > 0
    assert waiting.wait(OTHER) == 0


def test_another_account_at_the_same_address_is_not_locked_out() -> None:
    waiting = Waiting()
    waiting.fail(FREE_PER_ADDRESS - 1)
    assert waiting.wait(name="bob") == 0


def test_with_one_wrong_password_a_second_the_right_one_gets_in_at_its_second_try() -> None:
    """B7: it came 71 times, and was refused each time."""
    waiting = Waiting()
    for _ in range(120):
        waiting.look(f"guess {waiting.now}")
        waiting.now += 1
    refused = waiting.throttle.wait(GUESSER, "ada", "right")
    for _ in range(math.ceil(refused)):
        waiting.now += 1
        waiting.look(f"guess {waiting.now}")
    assert waiting.look("right")
    assert waiting.wait() == 0


def test_with_one_wrong_password_again_and_again_the_right_one_gets_in_at_once() -> None:
    """A forgotten job with an old password: it has been looked at, and takes nobody's turn."""
    waiting = Waiting()
    for _ in range(120):
        waiting.look("old")
        waiting.now += 1
    assert waiting.throttle.wait(GUESSER, "ada", "old") > 0
    assert waiting.look("right")


@pytest.mark.parametrize("times", [1, 2, 3])
def test_guessing_stays_slow_however_often_each_guess_is_sent(times: int) -> None:
    """Turns are no way round the wait: two passwords in ACCOUNT_TURN_SECONDS at most."""
    waiting, looked_at, seconds = Waiting(), 0, 600
    guesses = itertools.count()
    waiting.fail(20)
    for _ in range(seconds * 4 // times):
        guess = f"another guess {next(guesses)}"
        looked_at += max([waiting.look(guess) for _ in range(times)])
        waiting.now += times / 4
    assert 0 < looked_at <= 2 * seconds / ACCOUNT_TURN_SECONDS + 2


def test_a_wait_is_the_truth() -> None:
    """The password is looked at when it was told to come, and not before."""
    waiting = Waiting()
    waiting.fail(10)
    waits = []
    for number in range(40):
        password = f"another {number}"
        waits.append(waiting.throttle.wait(GUESSER, "ada", password))
        if waits[-1]:
            waiting.now += waits[-1] - 0.001
            assert waiting.throttle.wait(GUESSER, "ada", password) > 0
            waiting.now += 0.001
            assert waiting.throttle.wait(GUESSER, "ada", password) == 0
        waiting.throttle.failed(GUESSER, "ada", password)
        waiting.now += 0.3
    assert len(set(waits)) > 2


def test_a_turn_is_one_passwords_until_it_was_looked_at() -> None:
    """It is asked for before the line for a thread and behind it; no other gets in meanwhile."""
    waiting = Waiting()
    waiting.fail(20)
    assert waiting.throttle.wait(GUESSER, "ada", "one") == 0
    assert waiting.throttle.wait(GUESSER, "ada", "other") > 0
    assert waiting.throttle.wait(GUESSER, "ada", "one") == 0
    waiting.throttle.failed(GUESSER, "ada", "one")
    assert waiting.throttle.wait(GUESSER, "ada", "one") > 0


def test_many_accounts_from_one_address_lock_out_none_of_them() -> None:
    """B7: 50 wrong logins with any names locked out each account that had not logged in there."""
    waiting = Waiting()
    for number in range(FREE_PER_ADDRESS // 2):
        assert waiting.look("x", name=f"user-{number}")
    assert waiting.look("right")
    # A flood of them: the next one waits for a second or two, whatever goes on.
    for number in range(5000):
        waiting.look("x", name=f"another-user-{number}")
        waiting.now += 0.001
    refused = waiting.throttle.wait(GUESSER, "bob", "right")
    assert refused <= 2
    for number in range(2000):
        waiting.look("x", name=f"third-user-{number}")
        waiting.now += 0.001
    assert waiting.look("right", name="bob")


def test_trying_many_accounts_from_one_address_is_slowed_too() -> None:
    waiting, looked_at = Waiting(), 0
    for number in range(6000):
        looked_at += waiting.look("x", name=f"user-{number}")
        waiting.now += 0.01
    # A minute: what is free, and one a second.
    assert FREE_PER_ADDRESS < looked_at <= FREE_PER_ADDRESS + 61 * ADDRESS_DRAIN


def test_a_guesser_behind_the_same_proxy_locks_out_no_account_that_logged_in_there() -> None:
    """Behind a reverse proxy that is not named, all clients have its address."""
    waiting = Waiting()
    waiting.throttle.succeeded(GUESSER, "bob")
    waiting.fail(FREE_PER_ADDRESS * 10)
    assert waiting.wait(name="bob") == 0
    assert waiting.wait(name="ada") > 0
    # Trust is no licence to guess.
    waiting.fail(FREE_PER_ACCOUNT + 1, name="bob")
    assert waiting.wait(name="bob") > 0


def test_mistakes_are_forgotten_by_a_success_and_by_time() -> None:
    waiting = Waiting()
    waiting.fail(FREE_PER_ACCOUNT + 3)
    waiting.throttle.succeeded(GUESSER, "ada")
    assert waiting.wait() == 0
    waiting.fail(FREE_PER_ACCOUNT + 3, name="bob")
    waiting.now += FORGET_SECONDS + 1
    waiting.fail(1, name="bob")
    assert waiting.wait(name="bob") == 0


def test_what_is_remembered_is_bounded() -> None:
    """Memory must not grow with the number of names and passwords a client makes up."""
    waiting = Waiting()
    throttle = waiting.throttle
    for number in range(CAPACITY + 1000):
        throttle.failed(GUESSER, f"user-{number}", "x")
        throttle.succeeded(OTHER, f"user-{number}")
        throttle.wait(GUESSER, "ada", f"guess {number}")
        waiting.now += 0.1
        throttle.wait(f"192.0.2.{number % 250}", f"user-{number}", "x")
    assert len(waiting.counts) <= CAPACITY
    for remembered in (
        throttle._trusted,
        throttle._wrong,
        throttle._unseen,
        throttle._turns,
        throttle._having_turn,
    ):
        assert 0 < len(remembered) <= CAPACITY


def test_the_right_password_has_a_turn_while_the_wait_lasts(keep: Keep) -> None:
    """B7: others' mistakes at its address, even on its own account, keep no one out."""
    keep.user("ada", PASSWORD)
    refused = 0
    for number in range(FREE_PER_ACCOUNT + 20):
        try:
            assert not keep.lets_in("ada", f"wrong password {number}")
        except TooManyRequests:
            refused += 1
        keep.advance(1)
    assert refused > 10
    with suppress(TooManyRequests):
        # Between two turns.
        keep.lets_in("ada", PASSWORD)
    keep.advance(1)
    assert keep.lets_in("ada", PASSWORD)


def test_while_an_account_waits_guesses_cost_no_computing(
    keep: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the wait is for: a flood takes neither the right password's turn nor the processor."""
    keep.user("ada", PASSWORD)
    checks = 0
    check = passwords._HASHER.verify

    def counted(hashed: str, given: str) -> bool:
        nonlocal checks
        checks += 1
        return check(hashed, given)

    monkeypatch.setattr(type(passwords._HASHER), "verify", staticmethod(counted))
    for number in range(200):
        with pytest.raises((LoginFailed, TooManyRequests)):
            keep.door.login("ada", f"guess {number}", GUESSER)
    # Two for each password that is looked at: those that are free, and one turn.
    assert checks == 2 * (FREE_PER_ACCOUNT + 1)


def test_no_memory_is_spent_on_unknown_names(keep: Keep) -> None:
    """A form may have a name of 64 KiB, and there may be 20,000 of them."""
    throttle = keep.door._throttle
    assert not keep.lets_in("a" * 60_000, "x")
    assert not keep.lets_in("", "x")
    assert throttle._counts.find(HERE, "")[1].number == 0
    assert not throttle._wrong


def test_a_throttled_client_is_told_when_to_come_back(house: House) -> None:
    """azure.md section 2.1: 429 TOOMANYREQUESTS with Retry-After."""
    for _ in range(FREE_PER_ACCOUNT + 1):
        house.client.get("/v2/", headers=basic("unknown-name", "wrong"))
    response = house.client.get("/v2/", headers=basic("unknown-name", "wrong"))
    assert response.status_code == 429
    assert response.json()["errors"][0]["code"] == "TOOMANYREQUESTS"
    [error] = response.json()["errors"]
    assert int(response.headers["retry-after"]) == error["detail"]["retry_after_seconds"] > 0
    assert f"try again in {response.headers['retry-after']} s" in error["message"]
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


def test_a_wrong_password_costs_the_same_for_every_account(
    keep: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S7, CVE-2023-20902: an unknown name, a user, a token with two passwords, a disabled one."""
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
    for name in ("unknown", "ada", "ci", "empty", "off"):
        checks = 0
        assert not keep.lets_in(name, "a wrong password")
        costs[name] = checks
    assert set(costs.values()) == {2}, costs


# --- whose turn it is -----------------------------------------------------------------------------


def finished_in(*lines: Line) -> list[Line]:
    """The order in which one thread does a piece of work for each, all given to it at once."""
    done: list[Line] = []

    async def main() -> None:
        threads, begin = FairThreads(1), threading.Event()
        first = threads.submit(Line("unknown", ""), begin.wait)
        rest = [threads.submit(line, done.append, line) for line in lines]
        begin.set()
        await asyncio.gather(first, *rest)
        threads.close()

    asyncio.run(main())
    return done


def test_parties_waits_and_within_a_party_its_names_do() -> None:
    """The last to come waits for one piece of work of each, not for all there is."""
    flood = [Line("flood", f"user-{number}") for number in range(50)]
    again = [Line("other", "ada")] * 20
    late, shy = Line("late", "bob"), Line("other", "carol")
    order = finished_in(*flood, *again, late, shy)
    assert order[:3] == [flood[0], again[0], late]
    assert order.index(shy) == 4
    assert sorted(order, key=str) == sorted((*flood, *again, late, shy), key=str)


def test_work_that_fails_or_is_no_longer_waited_for_keeps_no_place() -> None:
    """A refused login and a client that hung up make room like any other."""

    async def main() -> None:
        threads, begin = FairThreads(1), threading.Event()
        line = Line("here", "ada")
        first = threads.submit(line, begin.wait)
        gone = threads.submit(line, lambda: pytest.fail("nothing waits for this"))
        gone.cancel()
        failing = threads.submit(line, int, "no number")
        last = threads.submit(line, int, "7")
        begin.set()
        assert await first
        with pytest.raises(ValueError, match="no number"):
            await failing
        assert await last == 7
        threads.close()

    asyncio.run(main())


@pytest.mark.parametrize("elsewhere", [True, False], ids=["another address", "the same address"])
def test_a_right_password_does_not_wait_behind_a_flood_of_wrong_ones(
    house: House, elsewhere: bool
) -> None:
    """By order, not by time: most guesses that came first are answered after it.

    From the guesser's own address that is so for accounts that logged in from there before: behind
    a reverse proxy all clients have its address.
    """
    flood_from, login_from = ("127.0.0.3", "127.0.0.4") if elsewhere else ("127.0.0.5",) * 2
    name = f"late-{elsewhere}"
    house.manage("user create", name=name, password=PASSWORD)
    if not elsewhere:
        with Asking(house, login_from, basic(name, PASSWORD)) as before:
            assert before.status() == 200
    # Another one, which was not seen to be right a moment ago.
    house.manage("user password", name=name, password="another long password")
    with ExitStack() as stack:
        guesses = [
            stack.enter_context(Asking(house, flood_from, basic(f"guess-{number}", "x")))
            for number in range(FREE_PER_ADDRESS // 2)
        ]
        login = Asking(house, login_from, basic(name, "another long password"))
        stack.enter_context(login)
        assert login.status() == 200
        unanswered = [guess for guess in guesses if not guess.answered]
        assert len(unanswered) > len(guesses) / 2
        assert {guess.status() for guess in guesses} <= {401, 429}


class Asking:
    """A request that was sent, from one of this machine's addresses."""

    def __init__(self, house: House, address: str, headers: dict[str, str]) -> None:
        host, _, port = house.server.host.rpartition(":")
        self._connection = socket.create_connection((host, int(port)), 60, (address, 0))
        self._answer = b""
        lines = [f"{name}: {value}" for name, value in headers.items()]
        request = "\r\n".join(["GET /v2/ HTTP/1.1", "Host: x", *lines, "", ""])
        self._connection.sendall(request.encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    @property
    def answered(self) -> bool:
        return bool(select.select([self._connection], [], [], 0)[0])

    def status(self) -> int:
        return int(self._connection.recv(65536).split(b" ")[1])


def test_a_flood_of_guesses_does_not_keep_pulls_waiting(house: House) -> None:
    """S39: passwords are hashed by threads of their own, at both endpoints that take them."""
    pull = house.bearer("reader", "repository:team/app:pull")
    stop = threading.Event()

    def guess(number: int) -> None:
        # From an address of its own: that of all other tests is not to be slowed.
        transport = httpx.HTTPTransport(local_address="127.0.0.6")
        with httpx.Client(base_url=house.server.url, timeout=60, transport=transport) as client:
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
