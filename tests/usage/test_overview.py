"""The bill as it was taken last (docs/design/observability.md section 2)."""

import pytest

from tests.support.clock import FakeClock
from tests.support.registry import ALICE, push_image
from ullage.authorization import WITHOUT_ACCOUNTS, Action, Grant, Principal
from ullage.documents import UNSET
from ullage.oci.reference import parse_repository_name
from ullage.registry.context import Registry
from ullage.registry.push.sessions import start_upload
from ullage.registry.push.uploads import append_upload
from ullage.usage import overview
from ullage.usage.bill import bill
from ullage.usage.overview import LEAST_SECONDS, find_overview, keep_up, take_overview
from ullage.usage.queries import overview as kept
from ullage.usage.usage import Usage, by_namespace, by_repository, registry_totals

APP = parse_repository_name("app")
READER = Principal("reader", (Grant("app", frozenset({Action.METADATA_READ})),))


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every registry is one that takes long to count, and its lines fill several pages."""
    monkeypatch.setattr(overview, "SMALL", 0)
    monkeypatch.setattr(overview, "PAGE_LINES", 2)


def stock(registry: Registry) -> None:
    for name in ("app", "team/a", "team/b", "team/c", "other/d"):
        push_image(registry, name, "v1", [b"shared by all", name.encode() * 5], config=b"{}")


def shown(registry: Registry, by: str = "repository", top: int | None = None) -> Usage:
    return bill(registry, WITHOUT_ACCOUNTS, by, top)


@pytest.mark.usefixtures("large")
def test_what_is_kept_is_what_is_counted(registry: Registry) -> None:
    stock(registry)
    take_overview(registry)
    found = shown(registry)
    assert found.registry == registry_totals(registry)
    assert found.entries == by_repository(registry, WITHOUT_ACCOUNTS)
    assert shown(registry, "namespace").entries == by_namespace(registry)
    first = shown(registry, top=3)
    assert first.entries == by_repository(registry, WITHOUT_ACCOUNTS)[:3]
    assert (first.omitted, shown(registry, top=0).entries) == (2, [])
    head = find_overview(registry)
    assert head is not None
    assert (head.head.repository_count, head.head.tag_count) == (5, 5)


@pytest.mark.usefixtures("large")
def test_it_says_when_it_was_exact(registry: Registry, clock: FakeClock) -> None:
    """Until something changes that is now; from then on, the moment at which it was taken."""
    stock(registry)
    taken = clock()
    take_overview(registry)
    clock.advance(300)
    assert shown(registry).as_of == clock().isoformat()
    push_image(registry, "app", "v2", [b"one more"])
    later = shown(registry)
    assert later.as_of == taken.isoformat()
    assert later.registry is not UNSET
    assert later.registry.disk_bytes < registry_totals(registry).disk_bytes
    take_overview(registry)
    assert shown(registry).registry == registry_totals(registry)


@pytest.mark.usefixtures("large")
def test_bytes_that_arrive_make_it_one_of_then(registry: Registry, clock: FakeClock) -> None:
    """Uploads change the disk, and nothing by which a change is noticed."""
    stock(registry)
    take_overview(registry)
    session = append_upload(registry, APP, start_upload(registry, APP, ALICE).id, ALICE)
    session.write(b"half an upload")
    session.close()
    taken = clock()
    clock.advance(300)
    assert shown(registry).as_of == taken.isoformat()


@pytest.mark.usefixtures("large")
def test_a_caller_sees_the_lines_it_may_read_and_no_sums(registry: Registry) -> None:
    stock(registry)
    take_overview(registry)
    found = bill(registry, READER, "repository", None)
    assert found.registry is UNSET
    assert found.entries == by_repository(registry, READER)
    assert [entry.name for entry in by_repository(registry, READER)] == ["app"]


def test_a_small_registry_is_counted_when_it_is_asked_about(registry: Registry) -> None:
    take_overview(registry)
    stock(registry)
    found = shown(registry)
    assert found.as_of is UNSET
    assert found.registry == registry_totals(registry)


@pytest.mark.usefixtures("large")
def test_before_the_first_is_taken_it_is_counted(registry: Registry) -> None:
    stock(registry)
    assert find_overview(registry) is None
    assert shown(registry).registry == registry_totals(registry)


def test_one_of_another_version_is_passed_over(registry: Registry, clock: FakeClock) -> None:
    registry.write(lambda tx: kept.keep(tx, clock(), {"registry": ['{"sums": 1}']}))
    assert find_overview(registry) is None


def test_it_is_taken_when_something_has_changed_and_not_again_before(
    registry: Registry, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock(registry)
    assert keep_up(registry) == LEAST_SECONDS
    found = find_overview(registry)

    def take(_: Registry, __: object) -> float:
        raise AssertionError("nothing has changed")

    with monkeypatch.context() as patched:
        patched.setattr(overview, "take_overview", take)
        assert keep_up(registry) == LEAST_SECONDS
    push_image(registry, "app", "v2", [b"one more"])
    clock.advance(60)
    keep_up(registry)
    assert find_overview(registry) != found


def test_taking_it_is_a_twentieth_of_the_time_at_most(
    registry: Registry, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that took ten seconds is taken every 200."""
    seconds = iter([0.0, 10.0])
    with monkeypatch.context() as patched:
        patched.setattr(overview, "monotonic", lambda: next(seconds))
        assert keep_up(registry) == 200
    push_image(registry, "app", "v1", [b"layer"])
    clock.advance(150)
    found = find_overview(registry)
    assert keep_up(registry) == 50
    assert find_overview(registry) == found
    clock.advance(50)
    assert keep_up(registry) == LEAST_SECONDS
    now = find_overview(registry)
    assert now is not None
    assert now.head.registry.manifest_count == 1
