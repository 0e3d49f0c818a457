"""Failed logins slow down the client that makes them, and no other."""

from __future__ import annotations

import ipaddress
import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

# Mistakes that cost nothing, for one account from one address; and for one address in all.
FREE_PER_ACCOUNT = 5
FREE_PER_ADDRESS = 50
LONGEST_WAIT = 60.0
# After this long without a mistake all is forgotten.
FORGET_SECONDS = 900.0
# An account that logged in at an address is not slowed by others' mistakes there, for a day.
TRUST_SECONDS = 86_400.0
CAPACITY = 20_000


@dataclass(slots=True)
class _Failures:
    count: int
    last: float


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
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._failures: OrderedDict[tuple[str, str | None], _Failures] = OrderedDict()
        # Which account logged in from where, and when: a guesser behind its proxy does not slow it.
        self._trusted: OrderedDict[tuple[str, str], float] = OrderedDict()

    def wait(self, address: str, name: str) -> float:
        """Seconds until this address may try this account again; 0 if at once."""
        address = network_of(address)
        with self._lock:
            wait = self._wait((address, name), FREE_PER_ACCOUNT)
            if self._trusts(address, name):
                return wait
            return max(wait, self._wait((address, None), FREE_PER_ADDRESS))

    def trusts(self, address: str, name: str) -> bool:
        """Whether this account was logged in to from there, not long ago."""
        with self._lock:
            return self._trusts(network_of(address), name)

    def _trusts(self, address: str, name: str) -> bool:
        return self._monotonic() - self._trusted.get((address, name), -math.inf) < TRUST_SECONDS

    def failed(self, address: str, name: str) -> None:
        address, now = network_of(address), self._monotonic()
        with self._lock:
            for key in ((address, name), (address, None)):
                failures = self._failures.setdefault(key, _Failures(0, now))
                if now - failures.last > FORGET_SECONDS:
                    failures.count = 0
                failures.count += 1
                failures.last = now
                self._failures.move_to_end(key)
            while len(self._failures) > CAPACITY:
                self._failures.popitem(last=False)

    def succeeded(self, address: str, name: str) -> None:
        address = network_of(address)
        with self._lock:
            self._failures.pop((address, name), None)
            self._trusted[(address, name)] = self._monotonic()
            self._trusted.move_to_end((address, name))
            while len(self._trusted) > CAPACITY:
                self._trusted.popitem(last=False)

    def _wait(self, key: tuple[str, str | None], free: int) -> float:
        failures = self._failures.get(key)
        now = self._monotonic()
        if failures is None or failures.count < free or now - failures.last > FORGET_SECONDS:
            return 0.0
        pause = min(2.0 ** min(failures.count - free, 10), LONGEST_WAIT)
        return max(0.0, failures.last + pause - now)
