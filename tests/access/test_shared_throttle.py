"""Several processes on PostgreSQL count failed logins together (B7)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.access.keep import HERE, OPERATOR, Keep
from tests.support.clock import FakeClock
from tests.support.statements import listened
from ullage.accounts import users
from ullage.accounts.authenticator import Authenticator, LoginFailed
from ullage.accounts.shared_counts import TIDY_SECONDS
from ullage.accounts.throttle import FORGET_SECONDS, FREE_PER_ACCOUNT, FREE_PER_ADDRESS
from ullage.authorization import parse_scopes
from ullage.database.schema import accounts
from ullage.database.transaction import Transaction
from ullage.oci.errors import TooManyRequests

pytestmark = pytest.mark.postgresql

PASSWORD = "a password that is long"
ELSEWHERE = "192.0.2.99"


@pytest.fixture
def shared(emptied_postgres_url: str, clock: FakeClock) -> Iterator[Keep]:
    """A registry on PostgreSQL; each `another_door` is another process's."""
    keep = Keep(emptied_postgres_url, clock)
    keep.user("ada", PASSWORD)
    yield keep
    keep.registry.db.close()


def rows(keep: Keep) -> int:
    def count(tx: Transaction) -> int:
        return len(list(tx.execute_directly(accounts.login_failures.select())))

    return keep.registry.read(count)


def tried(door: Authenticator, name: str, password: str, address: str = HERE) -> str:
    """What comes of a password."""
    try:
        door.login(name, password, address)
    except LoginFailed:
        return "wrong"
    except TooManyRequests:
        return "wait"
    return "right"


def test_wrong_passwords_at_any_process_count(shared: Keep) -> None:
    """Over two processes nothing was throttled: each balancer's round gave the guesser another."""
    doors = [shared.another_door() for _ in range(3)]
    for number in range(FREE_PER_ACCOUNT):
        assert tried(doors[number % 3], "ada", f"guess {number}") == "wrong"
    # A turn of each process, and that is all.
    came = [tried(doors[number % 3], "ada", f"another {number}") for number in range(30)]
    assert came.count("wrong") == 3
    assert came.count("wait") == 27
    assert tried(doors[0], "ada", PASSWORD, ELSEWHERE) == "right"


def test_wrong_passwords_of_one_address_count_at_any_process(shared: Keep) -> None:
    one, other = shared.another_door(), shared.another_door()
    for number in range(FREE_PER_ADDRESS + 5):
        one._throttle.failed(HERE, f"user-{number}", "x")
    assert one._throttle.wait(HERE, "bob", "x") == 0
    assert one._throttle.wait(HERE, "bob", "y") > 0
    assert other._throttle.wait(HERE, "bob", "x") == 0
    assert other._throttle.wait(HERE, "bob", "y") > 0
    shared.advance(FREE_PER_ADDRESS)
    assert other._throttle.wait(HERE, "carol", "z") == 0


def test_a_right_password_at_one_process_forgives_at_all_of_them(shared: Keep) -> None:
    one, other = shared.another_door(), shared.another_door()
    for number in range(FREE_PER_ACCOUNT - 1):
        assert tried(one, "ada", f"guess {number}") == "wrong"
    assert tried(other, "ada", PASSWORD) == "right"
    for number in range(FREE_PER_ACCOUNT):
        assert tried(one, "ada", f"another guess {number}") == "wrong"
    assert tried(one, "ada", "one too many") == "wrong"
    assert tried(one, "ada", "two too many") == "wait"


def test_what_is_forgotten_leaves_the_table(shared: Keep) -> None:
    door = shared.another_door()
    for number in range(20):
        assert tried(door, f"user-{number}", "x") == "wrong"
    assert rows(shared) == 21
    shared.advance(FORGET_SECONDS + TIDY_SECONDS)
    assert tried(door, "ada", "x", ELSEWHERE) == "wrong"
    assert rows(shared) == 2


def test_names_that_were_tried_are_not_in_the_database(shared: Keep) -> None:
    """Some type their password where the name goes."""
    tried(shared.another_door(), "my-secret-password", "x")

    def find(tx: Transaction) -> str:
        return str(list(tx.execute_directly(accounts.login_failures.select())))

    assert "my-secret" not in shared.registry.read(find)


def test_a_token_and_a_right_password_write_nothing(shared: Keep) -> None:
    """Counting costs those that make no mistakes one look at a password, and a token nothing."""
    door = shared.another_door()
    account = door.login("ada", PASSWORD, HERE)
    token = door.access_token(account, parse_scopes(["repository:*:*"])).token

    def asked_of_counts(work: Callable[[], object]) -> list[str]:
        with listened(shared.registry.db) as heard:
            work()
        return [sql.split()[0] for sql in heard if "login_failures" in sql]

    assert asked_of_counts(lambda: door.login("ada", PASSWORD, HERE)) == ["SELECT"]
    assert asked_of_counts(lambda: door.bearer(token)) == []
    assert asked_of_counts(lambda: door.remembered(token)) == []
    # A second password, which is not remembered.
    users.set_password(shared.registry, OPERATOR, "ada", "another long password")
    first = asked_of_counts(lambda: door.login("ada", "another long password", HERE))
    assert set(first) == {"SELECT"}
    assert "INSERT" in asked_of_counts(lambda: tried(door, "ada", "wrong"))
