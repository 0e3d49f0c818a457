"""Whether a container can be used, found out at a start and not at the first push."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ullage.blobs.azure.append import discard
from ullage.blobs.azure.container import (
    BROKEN_BODY,
    KEY_VARIABLE,
    THERE,
    Container,
    CredentialUnusable,
)
from ullage.blobs.azure.options import AzureOptions
from ullage.blobs.azure.places import PROBES
from ullage.blobs.azure.state import block_id
from ullage.blobs.protocol import StoreUnusable
from ullage.blobs.service import RequestFailed

log = logging.getLogger(__name__)

_DATA = b"0123456789"
# A start does not wait as long as a push would.
_RETRIES = 1
# By how much the clocks may differ, as the service has it.
_SKEW_SECONDS = 15 * 60

_NO_CREDENTIALS = frozenset({"ClientAuthenticationError", "CredentialUnavailableError"})
_WRONG_KEY = frozenset({"AuthenticationFailed", "InvalidAuthenticationInfo", "401"})
_DENIED = frozenset(
    {
        "403",
        "AuthorizationPermissionMismatch",
        "InsufficientAccountPermissions",
        "AccountIsDisabled",
    }
)
_AWAY = frozenset(
    {
        "IncompleteReadError",
        "ServiceRequestError",
        "ServiceRequestTimeoutError",
        "ServiceResponseError",
        "ServiceResponseTimeoutError",
    }
)
# What is in the message where the certificate, and not the network, is the reason.
_TLS_WORDS = ("SSL", "certificate")
_ROLE = "the role Storage Blob Data Contributor"


def open_container(options: AzureOptions, *, credential: Any = None) -> Container:
    """A container in which all has been done that a store does there; nothing of it is left.

    Raises StoreUnusable with one line: what is wrong, and what to change.
    """
    if options.ca is not None and not Path(options.ca).is_file():
        raise StoreUnusable(f"ca={options.ca}: there is no such file - name a PEM file with ca=")
    try:
        container = Container(options, credential=credential, retries=_RETRIES)
    except CredentialUnusable as error:
        raise StoreUnusable(str(error)) from error
    _Probe(container).run()
    return Container(options, credential=credential)


class _Probe:
    def __init__(self, container: Container) -> None:
        self._container = container
        self._where = f"container {container.options.container}"
        self._place = f"{PROBES}{secrets.token_hex(8)}"

    def run(self) -> None:
        with self._reasons("read the container"):
            self._container.require()
        try:
            self._require_no_versions()
            self._require_conditions()
            self._require_ranges()
            self._require_blocks()
        except BaseException:
            with suppress(OSError):
                self._delete()
            raise
        with self._reasons("delete blobs"):
            self._delete()
        self._require_no_soft_delete()

    def _require_no_versions(self) -> None:
        with self._reasons("write blobs"):
            answer = self._container.put(self._place, _DATA)
        if answer.get("version_id"):
            raise StoreUnusable(
                f"{self._where}: its account keeps old versions, so deleting gives nothing back - "
                "turn versioning off, or name another account"
            )

    def _require_conditions(self) -> None:
        try:
            with self._reasons("write blobs", but=THERE):
                self._container.put(self._place, _DATA)
        except RequestFailed:
            return
        raise StoreUnusable(
            f"{self._where} does not keep a blob from being replaced (If-None-Match: *), so a late "
            "request could - use a service that does"
        )

    def _require_ranges(self) -> None:
        with self._reasons("read blobs"), self._container.stream(self._place, 2, 3) as body:
            try:
                found = body.read(len(_DATA))
            except BROKEN_BODY as error:
                raise RequestFailed(type(error).__name__, str(error)) from error
        if found != _DATA[2:5]:
            raise StoreUnusable(f"{self._where} answers no ranges - use another service")

    def _require_blocks(self) -> None:
        place = f"{self._place}-blocks"
        with self._reasons("write and list blocks"):
            self._container.put_block(place, block_id("0" * 16, 0), _DATA)
            listed = {found.name for found in self._container.entries(place)}
            discard(self._container, place)
        if listed != {self._container.name(place)}:
            raise StoreUnusable(
                f"{self._where} does not list unfinished uploads, whose bytes could not be found "
                "again - use another service"
            )

    def _delete(self) -> None:
        for refused in self._container.delete([self._place]).values():
            raise refused

    def _require_no_soft_delete(self) -> None:
        try:
            kept = self._container.keeps_deleted()
        except OSError as error:
            # A right that an identity need not have, and a question that a service need not know.
            log.info("whether deleted blobs are kept cannot be seen: %s", error)
            return
        if kept:
            raise StoreUnusable(
                f"{self._where}: its account keeps blobs after their deletion (soft delete), so "
                "deleting gives nothing back at once - turn that off, or name another account"
            )

    @contextmanager
    def _reasons(self, right: str, *, but: frozenset[str] = frozenset()) -> Iterator[None]:
        """Say why a request failed, unless it is for one of the reasons `but`."""
        try:
            yield
        except RequestFailed as error:
            if error.code in but:
                raise
            raise StoreUnusable(_reason(error, right, self._container)) from error
        except StoreUnusable:
            raise
        except OSError as error:
            raise StoreUnusable(f"{self._where}: {error.strerror or error}") from error


def _reason(error: RequestFailed, right: str, container: Container) -> str:
    """One line for an operator."""
    options = container.options
    where = f"container {options.container}"
    said = _said(error)
    if error.code in _NO_CREDENTIALS:
        return (
            f"{where}: no key and no identity to ask with - set {KEY_VARIABLE}, or give the "
            "machine an identity"
        )
    if error.code == "ContainerNotFound":
        return f"there is no {where} in account {options.account} - make it, or name another one"
    if error.status == 403 and abs(container.ahead) > _SKEW_SECONDS:
        return (
            f"{where}: this machine's clock and the service's differ by more than 15 minutes - set "
            "the clock"
        )
    if error.code in _AWAY and any(word in said for word in _TLS_WORDS):
        return f"{options.endpoint}: {said} - name the authority of its certificate with ca=FILE"
    if error.code in _AWAY:
        return f"{options.endpoint} does not answer ({said}) - check endpoint= and the network"
    if error.code in _DENIED or (error.code == "AuthorizationFailure" and _has_token(container)):
        return f"{where}: these credentials may not {right} - grant {_ROLE}"
    if error.code in _WRONG_KEY or error.code == "AuthorizationFailure":
        return (
            f"{where}: the service does not take these credentials ({error.code}) - check "
            f"{KEY_VARIABLE}, account= and the account's network rules"
        )
    if error.status == 404:
        return f"there is no {where} at {options.endpoint} - check account= and endpoint="
    return f"{where} cannot be used: {said}"


def _has_token(container: Container) -> bool:
    return container.account_key is None


def _said(error: RequestFailed) -> str:
    lines = (error.strerror or "").splitlines() or [error.code]
    return lines[0]
