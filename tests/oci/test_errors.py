"""distribution-spec, "Error Codes": one exception per code."""

import inspect

import pytest

from ullage.oci import errors
from ullage.oci.errors import (
    BlobUnknown,
    ManifestInvalid,
    ManifestTooLarge,
    RangeInvalid,
    RegistryError,
    shown,
)

SPEC_CODES = {
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "SIZE_INVALID",
    "UNAUTHORIZED",
    "DENIED",
    "UNSUPPORTED",
    "TOOMANYREQUESTS",
}
OTHER_CODES = {
    "TAG_INVALID",
    "RANGE_INVALID",
    "PAGINATION_NUMBER_INVALID",
    "REGISTRY_DISALLOWED_OPERATION",
    "TAG_UNKNOWN",
    "PLAN_UNKNOWN",
    "PLAN_INVALID",
    "PLAN_CHANGED",
    "PLAN_REFUSED",
    "JOB_UNKNOWN",
    "LOCK_UNKNOWN",
    "OPERATION_UNKNOWN",
    "RESTORE_CONFLICT",
    "SOURCE_UNKNOWN",
    "SOURCE_EMPTY",
    "VALUE_INVALID",
    "STORAGE_FULL",
    "UNAVAILABLE",
}
ERRORS = [
    found
    for _, found in inspect.getmembers(errors, inspect.isclass)
    if issubclass(found, RegistryError) and found is not RegistryError
]


def test_every_code_of_the_spec_has_its_exception_and_no_two_share_one() -> None:
    direct = [error.code for error in ERRORS if error.__base__ is RegistryError]
    assert sorted(direct) == sorted(SPEC_CODES | OTHER_CODES)


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_has_a_message_of_its_own(error: type[RegistryError]) -> None:
    assert error.message != RegistryError.message
    assert sum(other.message == error.message for other in ERRORS) == 1


def test_an_error_tells_its_case_and_otherwise_the_general_one() -> None:
    general = BlobUnknown()
    assert (general.detail, general.message) == (None, BlobUnknown.message)
    special = BlobUnknown({"digest": "sha256:0"}, "gone")
    assert (special.code, special.message, str(special)) == ("BLOB_UNKNOWN", "gone", "gone")
    assert special.detail == {"digest": "sha256:0"}
    assert BlobUnknown.message != "gone"


def test_a_manifest_too_large_is_an_invalid_manifest() -> None:
    assert issubclass(ManifestTooLarge, ManifestInvalid)
    assert ManifestTooLarge.code == "MANIFEST_INVALID"


def test_an_invalid_range_says_where_the_upload_stands() -> None:
    assert RangeInvalid({"upload": "1"}, offset=5).offset == 5


@pytest.mark.parametrize(
    "hostile", ["\r\nSet-Cookie: a", "\x1b[2J", "\u2028", "\ud800", "é", "\x00"]
)
def test_what_a_client_sent_is_shown_in_plain_printable_ascii(hostile: str) -> None:
    """Log injection: CR, LF, escape sequences and line separators arrive escaped."""
    assert shown(hostile).isascii()
    assert shown(hostile).isprintable()


def test_what_a_client_sent_is_shown_shortened() -> None:
    long = shown("\U0001f600" * 10_000)
    assert len(long) < 1100
    assert long.isascii()
    assert shown("a" * 100) == repr("a" * 100)
    assert shown("a" * 101).endswith("...")
