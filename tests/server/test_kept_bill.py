"""`GET /api/v1/usage` of a registry that takes long to count (docs/design/observability.md)."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.clock import FakeClock
from tests.support.registry import make_registry, push_image
from ullage.blobs.memory import MemoryBlobStore
from ullage.registry.context import Registry
from ullage.server.app import create_app
from ullage.server.http.single_flight import SingleFlight
from ullage.usage import overview
from ullage.usage.overview import take_overview


@pytest.fixture
def registry(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Registry]:
    """One that counts as large."""
    monkeypatch.setattr(overview, "SMALL", 0)
    registry = make_registry(f"sqlite:///{tmp_path / 'ullage.db'}", MemoryBlobStore(), clock)
    yield registry
    registry.db.close()


def asked(registry: Registry, *queries: str) -> list[httpx.Response]:
    async def run() -> list[httpx.Response]:
        transport = httpx.ASGITransport(create_app(registry))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return [await client.get(f"/api/v1/usage{query}") for query in queries]

    return asyncio.run(run())


def test_it_answers_with_what_was_counted_last_and_counts_anew_when_asked(
    registry: Registry,
) -> None:
    take_overview(registry)
    push_image(registry, "app", "v1", [b"layer"], config=b"{}")
    kept, fresh, then = asked(registry, "", "?fresh=true", "")
    assert "as_of" in kept.json()
    sizes = [answer.json()["registry"]["disk_bytes"] for answer in (kept, fresh, then)]
    assert sizes == [0, 7, 7]


def test_a_check_compares_the_store_with_what_is_now(registry: Registry) -> None:
    take_overview(registry)
    push_image(registry, "app", "v1", [b"layer"], config=b"{}")
    (answer,) = asked(registry, "?check=true")
    sums = answer.json()["registry"]
    assert (sums["disk_bytes"], sums["store_bytes"], sums["unexplained_bytes"]) == (7, 7, 0)


# --- many at once ---------------------------------------------------------------------------------


def test_callers_share_work_that_began_after_they_asked() -> None:
    began: list[int] = []
    at_work, goes_on = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        began.append(len(began))
        at_work.set()
        await goes_on.wait()

    async def run() -> None:
        flight = SingleFlight()
        first = [asyncio.create_task(flight.run(work)) for _ in range(3)]
        await at_work.wait()
        # What is under way may have passed over what these have changed.
        later = [asyncio.create_task(flight.run(work)) for _ in range(3)]
        await asyncio.sleep(0)
        assert began == [0]
        goes_on.set()
        await asyncio.gather(*first, *later)
        assert began == [0, 1]
        await flight.run(work)
        assert began == [0, 1, 2]

    asyncio.run(run())


def test_all_of_them_learn_that_it_failed_and_the_next_one_begins_anew() -> None:
    async def fails() -> None:
        raise ValueError

    async def works() -> None:
        pass

    async def run() -> None:
        flight = SingleFlight()
        found = await asyncio.gather(*(flight.run(fails) for _ in range(2)), return_exceptions=True)
        assert [type(each) for each in found] == [ValueError, ValueError]
        await flight.run(works)

    asyncio.run(run())
