"""Failed logins slow down the client that makes them, and no other.

They are counted by account and address: after a few, the next password waits. So that a guesser
keeps no one out, a password that was not tried yet is looked at now and then even while its account
waits; and one that was refused unseen before has a turn of its own, which passwords that are tried
once never take. An address that tries many accounts is slowed to one password a second.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

# Mistakes that cost nothing, for one account from one address; and for one address in all.
FREE_PER_ACCOUNT = 5
FREE_PER_ADDRESS = 100
LONGEST_WAIT = 60.0
# So many mistakes a second an address is forgiven.
ADDRESS_DRAIN = 1.0
# After this long without a mistake all is forgotten.
FORGET_SECONDS = 900.0
# Where an account waits, and where an address has made too many mistakes, an untried password is
# looked at this often; and this often one that comes again.
ACCOUNT_TURN_SECONDS = 10.0
ADDRESS_TURN_SECONDS = 1.0
# Longer than a password waits for a thread that looks at it.
TURN_LASTS_SECONDS = 60.0
# One that was refused unseen may come again after this.
AGAIN_SECONDS = 1.0
# An account that logged in at an address is not slowed by others' mistakes there, for a day.
TRUST_SECONDS = 86_400.0
CAPACITY = 20_000

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Failures(NamedTuple):
    """How many that still count, and when the last one was, in seconds of the counts' clock."""

    number: float = 0.0
    last: float = -math.inf

    def at(self, now: float, drain: float) -> float:
        """How many still count by now, if so many a second are forgiven."""
        passed = max(0.0, now - self.last)
        return 0.0 if passed > FORGET_SECONDS else max(0.0, self.number - passed * drain)


class Counts(Protocol):
    """Where failures are counted; `address` is a network."""

    def now(self) -> float:
        """Seconds of a clock that all who share the counts have."""

    def find(self, address: str, name: str) -> tuple[Failures, Failures]:
        """Those of an account there, and of all accounts there."""

    def add(self, address: str, name: str) -> None:
        """One more of both."""

    def forget(self, address: str, name: str) -> None:
        """The account's are over; asked only where there were some."""


class MemoryCounts:
    """Counts of this process alone; any thread may ask."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.now = monotonic
        self._lock = threading.Lock()
        self._failures: OrderedDict[tuple[str, str | None], Failures] = OrderedDict()

    def __len__(self) -> int:
        return len(self._failures)

    def find(self, address: str, name: str) -> tuple[Failures, Failures]:
        with self._lock:
            get = self._failures.get
            return get((address, name), Failures()), get((address, None), Failures())

    def add(self, address: str, name: str) -> None:
        now = self.now()
        with self._lock:
            for key, drain in (((address, name), 0.0), ((address, None), ADDRESS_DRAIN)):
                before = self._failures.get(key, Failures()).at(now, drain)
                _put(self._failures, key, Failures(before + 1, now))

    def forget(self, address: str, name: str) -> None:
        with self._lock:
            self._failures.pop((address, name), None)


@dataclass(slots=True)
class _Turns:
    """When an untried password was looked at last, and one that came again."""

    first: float = -math.inf
    again: float = -math.inf


@dataclass(frozen=True, slots=True)
class _Limit:
    """Whose mistakes are too many: until when they hold up a password, unless it has a turn."""

    key: tuple[str, str | None]
    until: float
    turn_seconds: float


def network_of(address: str) -> str:
    """The address itself, or the network that one customer gets (RFC 6177) if it is an IPv6 one."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed), 64), strict=False))


class Throttle:
    """Counts by (address, account) and by address: a guesser elsewhere locks no account out here.

    Addresses of one IPv6 network are one: a client that has one of them has all of them.
    Counts may be shared with other processes; turns are this process's own.
    """

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._lock = threading.Lock()
        self._secret = secrets.token_bytes(32)
        # Accounts with mistakes that a success is to end.
        self._mistaken: OrderedDict[tuple[str, str], None] = OrderedDict()
        # Which account logged in from where, and when: a guesser behind its proxy does not slow it.
        self._trusted: OrderedDict[tuple[str, str], float] = OrderedDict()
        # Passwords, sealed: which were wrong, were refused unseen, or have their turn, and since
        # when.
        self._wrong: OrderedDict[bytes, float] = OrderedDict()
        self._unseen: OrderedDict[bytes, float] = OrderedDict()
        self._having_turn: OrderedDict[bytes, float] = OrderedDict()
        self._turns: OrderedDict[tuple[str, str | None], _Turns] = OrderedDict()

    def wait(self, address: str, name: str, password: str) -> float:
        """Seconds until this password may be looked at; 0 if now.

        Then it has its turn until the caller says that it failed, and no other has the same one.
        """
        address = network_of(address)
        account, whole = self._counts.find(address, name)
        if account.number:
            with self._lock:
                _put(self._mistaken, (address, name), None)
        if not account.number and whole.number < FREE_PER_ADDRESS:
            return 0.0
        now = self._counts.now()
        with self._lock:
            limits = self._limits(address, name, account, whole, now)
            if not limits:
                return 0.0
            seal = self._seal(address, name, password)
            if now - self._having_turn.get(seal, -math.inf) < TURN_LASTS_SECONDS:
                return 0.0
            due = max(self._due(limit, seal, now) for limit in limits)
            if due > now:
                # From the first time on, so that asking often does not push its turn back.
                _put(self._unseen, seal, self._unseen.get(seal, now))
                return due - now
            for limit in limits:
                self._take(limit, now)
            _put(self._having_turn, seal, now)
            return 0.0

    def failed(self, address: str, name: str, password: str) -> None:
        """The password was looked at, and wrong."""
        address = network_of(address)
        self._counts.add(address, name)
        seal = self._seal(address, name, password)
        with self._lock:
            _put(self._mistaken, (address, name), None)
            self._unseen.pop(seal, None)
            self._having_turn.pop(seal, None)
            _put(self._wrong, seal, self._counts.now())

    def succeeded(self, address: str, name: str) -> None:
        """The password was right."""
        address = network_of(address)
        with self._lock:
            mistaken = (address, name) in self._mistaken
            self._mistaken.pop((address, name), None)
            _put(self._trusted, (address, name), self._counts.now())
        if mistaken:
            self._counts.forget(address, name)

    def trusts(self, address: str, name: str) -> bool:
        """Whether this account was logged in to from there, not long ago."""
        with self._lock:
            return self._trusts(network_of(address), name)

    def _trusts(self, address: str, name: str) -> bool:
        return self._counts.now() - self._trusted.get((address, name), -math.inf) < TRUST_SECONDS

    def _limits(
        self, address: str, name: str, account: Failures, whole: Failures, now: float
    ) -> list[_Limit]:
        """What holds up passwords for this account from there now."""
        limits = []
        count = account.at(now, 0.0)
        if count >= FREE_PER_ACCOUNT:
            pause = min(2.0 ** min(count - FREE_PER_ACCOUNT, 10), LONGEST_WAIT)
            limits.append(
                _Limit((address, name), min(account.last, now) + pause, ACCOUNT_TURN_SECONDS)
            )
        count = whole.at(now, ADDRESS_DRAIN)
        if count > FREE_PER_ADDRESS - 1 and not self._trusts(address, name):
            seconds = (count - (FREE_PER_ADDRESS - 1)) / ADDRESS_DRAIN
            limits.append(_Limit((address, None), now + seconds, ADDRESS_TURN_SECONDS))
        return [limit for limit in limits if limit.until > now]

    def _due(self, limit: _Limit, seal: bytes, now: float) -> float:
        """When this limit lets a password through."""
        if now - self._wrong.get(seal, -math.inf) < FORGET_SECONDS:
            # It was looked at already.
            return limit.until
        turns = self._turns.get(limit.key) or _Turns()
        came_at = self._unseen.get(seal, now)
        again = max(min(turns.again, now) + limit.turn_seconds, came_at + AGAIN_SECONDS)
        first = min(turns.first, now) + limit.turn_seconds
        return min(limit.until, first, again)

    def _take(self, limit: _Limit, now: float) -> None:
        """Use up the turn that _due found."""
        turns = self._turns.get(limit.key) or _Turns()
        if turns.first + limit.turn_seconds <= now:
            turns.first = now
        else:
            turns.again = now
        _put(self._turns, limit.key, turns)

    def _seal(self, address: str, name: str, password: str) -> bytes:
        """What a password is remembered by: nothing can be learned from it."""
        text = "\0".join((address, name, password)).encode("utf-8", "surrogatepass")
        return hmac.digest(self._secret, text, hashlib.sha256)[:16]


def _put(remembered: OrderedDict[K, V], key: K, value: V) -> None:
    """Remember it, and no more than CAPACITY."""
    remembered[key] = value
    remembered.move_to_end(key)
    while len(remembered) > CAPACITY:
        remembered.popitem(last=False)
