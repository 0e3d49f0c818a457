"""A registry with accounts and without a server: time is what the test says."""

from typing import Any

from tests.support.clock import FakeClock
from tests.support.documents import given
from tests.support.registry import make_registry
from ullage.accounts import tokens, users
from ullage.accounts.authenticator import Authenticator, LoginFailed
from ullage.accounts.directory import Accounts, StoredAccounts
from ullage.accounts.jwt import TokenInvalid
from ullage.authorization import Principal, parse_scopes
from ullage.blobs.memory import MemoryBlobStore
from ullage.registry.clients import Caller
from ullage.registry.context import Registry

OPERATOR = Caller(subject="operator", address="local", agent="test", request_id="r-1")
HERE = "192.0.2.7"


class Keep:
    """`advance` moves both clocks; `door` is the authenticator under test."""

    def __init__(self, database_url: str, clock: FakeClock) -> None:
        self.clock = clock
        self.monotonic = 1000.0
        self.registry: Registry = make_registry(database_url, MemoryBlobStore(), clock)
        self.door = self.another_door()

    def another_door(self, found_in: Accounts | None = None) -> Authenticator:
        """What another process of the same registry has."""
        return Authenticator(
            self.registry,
            found_in or StoredAccounts(self.registry),
            monotonic=lambda: self.monotonic,
        )

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.monotonic += seconds

    # -- accounts

    def user(self, name: str, password: str, **more: Any) -> None:
        users.create_user(self.registry, OPERATOR, name, password=password, **more)

    def token(self, name: str, *actions: str, **more: Any) -> list[str]:
        """A token with these actions on team/*; its two passwords."""
        made = tokens.create_token(
            self.registry, OPERATOR, name, repositories=[["team/*", *actions]], **more
        )
        return [given(password.value) for password in made.credentials.passwords]

    # -- what a client tries

    def lets_in(self, name: str, password: str, door: Authenticator | None = None) -> bool:
        """With Basic."""
        try:
            (door or self.door).login(name, password, HERE)
        except LoginFailed:
            return False
        return True

    def access_token(self, name: str, password: str, scope: str = "repository:*:*") -> str:
        account = self.door.login(name, password, HERE)
        return self.door.access_token(account, parse_scopes([scope])).token

    def refresh_token(self, name: str, password: str) -> str:
        return self.door.refresh_token(self.door.login(name, password, HERE))

    def identity_token(self, name: str, password: str) -> str:
        """What docker keeps."""
        return self.door.identity_token(self.door.login(name, password, HERE))

    def takes(self, token: str, door: Authenticator | None = None) -> Principal | None:
        """With Bearer, as the guard does: what is remembered first."""
        door = door or self.door
        try:
            return door.remembered(token) or door.bearer(token)
        except TokenInvalid:
            return None

    def renews(self, token: str) -> bool:
        """Whether a refresh token still buys anything."""
        try:
            self.door.account_of_refresh_token(token)
        except LoginFailed:
            return False
        return True
