"""What is in a bucket: objects, tails of uploads, and multipart uploads that nobody finished."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from ullage.blobs.protocol import StoredObject
from ullage.blobs.s3.bucket import NOT_FOUND, Bucket
from ullage.blobs.s3.places import LABEL, TAILS, key_of_object, key_of_tail
from ullage.blobs.service import RequestFailed


def list_bucket(bucket: Bucket, shard: int | None) -> Iterator[StoredObject]:
    """Everything below the prefix, or what belongs to a shard.

    What no key reaches is in the shard of its first two digits, if its place has any.
    """
    # Uploads first, so that what is committed meanwhile is seen twice rather than never.
    yield from _multiparts(bucket, shard)
    yield from _tails(bucket, shard)
    yield from _objects(bucket, shard)


def _multiparts(bucket: Bucket, shard: int | None) -> Iterator[StoredObject]:
    prefix = bucket.name("" if shard is None else f"{shard:02x}/")
    for found in _multipart_pages(bucket, prefix):
        size = size_of_parts(bucket, found["Key"], found["UploadId"])
        if size is None:
            continue
        place = bucket.place(found["Key"])
        key = key_of_object(place)
        modified = _by_our_clock(bucket, found["Initiated"])
        if key is not None:
            yield StoredObject(key, size, modified, False, place=found["UploadId"])
        else:
            yield StoredObject(place, size, modified, False, "not an upload of a registry")


def _multipart_pages(bucket: Bucket, prefix: str) -> Iterator[dict[str, Any]]:
    markers: dict[str, str] = {}
    while True:
        page = bucket.call("list_multipart_uploads", Prefix=prefix, **markers)
        yield from page.get("Uploads", ())
        if not page.get("IsTruncated"):
            return
        markers = {
            "KeyMarker": page["NextKeyMarker"],
            "UploadIdMarker": page["NextUploadIdMarker"],
        }


def size_of_parts(bucket: Bucket, name: str, multipart: str) -> int | None:
    """Bytes of an unfinished multipart upload; None if there is none."""
    size = 0
    marker: dict[str, int] = {}
    while True:
        try:
            page = bucket.call("list_parts", Key=name, UploadId=multipart, **marker)
        except RequestFailed as error:
            if error.code in NOT_FOUND | {"NoSuchUpload"}:
                return None
            raise
        size += sum(int(part["Size"]) for part in page.get("Parts", ()))
        if not page.get("IsTruncated"):
            return size
        marker = {"PartNumberMarker": int(page["NextPartNumberMarker"])}


def _tails(bucket: Bucket, shard: int | None) -> Iterator[StoredObject]:
    prefix = TAILS if shard is None else f"{TAILS}{shard:02x}"
    for place, size, modified in _entries(bucket, prefix):
        key = key_of_tail(place)
        if key is not None:
            yield StoredObject(key, size, modified, False, place=place)
        else:
            yield StoredObject(place, size, modified, False, "not a tail of an upload")


def _objects(bucket: Bucket, shard: int | None) -> Iterator[StoredObject]:
    for place, size, modified in _entries(bucket, "" if shard is None else f"{shard:02x}/"):
        if place == LABEL or place.startswith(TAILS):
            continue
        key = key_of_object(place)
        if key is not None:
            yield StoredObject(key, size, modified, True)
        else:
            yield StoredObject(place, size, modified, True, "not a storage key")


def _entries(bucket: Bucket, prefix: str) -> Iterator[tuple[str, int, float]]:
    token: dict[str, str] = {}
    while True:
        page = bucket.call("list_objects_v2", Prefix=bucket.name(prefix), **token)
        for found in page.get("Contents", ()):
            modified = _by_our_clock(bucket, found["LastModified"])
            yield bucket.place(found["Key"]), found["Size"], modified
        if not page.get("IsTruncated"):
            return
        token = {"ContinuationToken": page["NextContinuationToken"]}


def _by_our_clock(bucket: Bucket, moment: datetime) -> float:
    """Ages are told by one clock: the service's, as its answers say what time it is there."""
    return moment.timestamp() + bucket.ahead
