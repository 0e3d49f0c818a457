"""The list of repositories, and one repository: its images or tags, to look at and to choose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlencode

from starlette.responses import Response

from ullage.authorization import Action
from ullage.deletion.delete import Untagged, delete_tag
from ullage.oci.digest import parse_digest
from ullage.oci.errors import ValueInvalid
from ullage.oci.reference import parse_tag
from ullage.registry import listings
from ullage.registry.listings import ListingPage, Order, TagDetails
from ullage.registry.locks import image_locks, immutable_tags
from ullage.registry.locks.immutable_tags import ImmutableTags
from ullage.registry.pull import pull_log
from ullage.registry.pull.pull_log import PullHistory
from ullage.registry.queries.pulls import PulledMost
from ullage.server.http.json_bodies import is_id
from ullage.server.http.permissions import CATALOG, DELETE, METADATA_READ
from ullage.server.http.routes import Route
from ullage.server.ui.bill import Line, bill_of, repository_line
from ullage.server.ui.formats import address
from ullage.server.ui.visit import Visit
from ullage.usage import shown_images
from ullage.usage.ranking import Sorting
from ullage.usage.shown_images import ImagePage, ShownImage

PAGE = 50
# Of the plot of pulls.
DAYS = 60
_DAY_WIDTH = 10
_DAY_SECONDS = 24 * 3600
TABS = ("images", "orphans", "tags", "pulls")
_ORDERS: dict[str, Callable[[Line], tuple[object, ...]]] = {
    "share": lambda line: (-line.fair_share_bytes, line.name),
    "frees": lambda line: (-line.exclusive_bytes, line.name),
    "untagged": lambda line: (-line.untagged_bytes, line.name),
    "tags": lambda line: (-line.tag_count, line.name),
    "name": lambda line: (line.name,),
}


@dataclass(frozen=True, slots=True)
class Row:
    """An image in the list. Widths are of its bar, in hundredths of the largest's."""

    image: ShownImage
    platform: str
    size_width: str
    frees_width: str
    locked: str


# --- all of them ----------------------------------------------------------------------------------


async def list_repositories(visit: Visit) -> Response:
    """Fifty repositories, in any order, those with a text in their name (ui.md section 3)."""
    query = visit.query
    text, order = query.one("q") or "", query.one("sort") or "share"
    if order not in _ORDERS:
        raise ValueInvalid({"sort": order[:40]}, f"sort: expected one of {', '.join(_ORDERS)}")
    bill = await visit.run(bill_of, visit.registry, visit.principal)
    lines = sorted((line for line in bill.lines if text in line.name), key=_ORDERS[order])
    shown, more = _behind(lines, query.one("last"))
    most = max((line.fair_share_bytes for line in lines), default=0) or 1
    return await visit.page(
        "repositories.html",
        rows=[(line, f"{100 * line.fair_share_bytes / most:.2f}") for line in shown],
        total=len(lines),
        q=text,
        sort=order,
        sorts=_links({"q": text}, "sort", list(_ORDERS)),
        next=_link(q=text, sort=order, last=shown[-1].name) if more else None,
        first=_link(q=text, sort=order) if query.one("last") else None,
        host=visit.host,
        as_of=bill.as_of,
    )


def _behind(lines: Sequence[Line], last: str | None) -> tuple[Sequence[Line], bool]:
    """A page of lines, and whether there are more."""
    places = {line.name: place for place, line in enumerate(lines)}
    start = places[last] + 1 if last in places else 0
    return lines[start : start + PAGE], start + PAGE < len(lines)


def _link(**parameters: str) -> str:
    return "?" + urlencode({name: value for name, value in parameters.items() if value})


def _links(fixed: dict[str, str], name: str, values: Sequence[str]) -> dict[str, str]:
    return {value: _link(**fixed, **{name: value}) for value in values}


# --- one of them ----------------------------------------------------------------------------------


async def show_repository(visit: Visit, name: str) -> Response:
    """What the repository takes, and a page of its images or tags (ui.md section 3)."""
    repository = visit.name(name)
    query = visit.query
    tab = query.one("tab") or "images"
    if tab not in TABS:
        raise ValueInvalid({"tab": tab[:40]}, f"tab: expected one of {', '.join(TABS)}")
    sorting = _sorting(query.one("sort"), tab)
    text, last = query.one("q") or "", query.one("last")
    line = await visit.run(repository_line, visit.registry, repository)
    # Reasons, owners and rules are for accounts.
    locks, immutable = [], immutable_tags.NONE
    if not visit.is_anonymous:
        locks = await visit.run(image_locks.list_locks, visit.registry, visit.principal, repository)
        immutable = await visit.run(immutable_tags.rules_about, visit.registry, repository)
    whole = next((lock for lock in locks if lock.tag is None and lock.digest is None), None)
    same = {"tab": tab, "sort": str(sorting), "q": text}
    page = ImagePage((), None)
    pulled: PullView | None = None
    tags: ListingPage[TagDetails] = ListingPage((), None)
    if tab == "tags":
        tags = await visit.run(
            listings.list_tags, visit.registry, repository, Order.NEWEST_FIRST, PAGE, last
        )
    elif tab == "pulls":
        history = await visit.run(pull_log.pull_history, visit.registry, repository, DAYS, PAGE)
        pulled = _pull_view(history)
    elif tab == "images" and sorting is Sorting.PUSHED and not text:
        page = await visit.run(shown_images.newest_images, visit.registry, repository, PAGE, last)
    else:
        page = await visit.run(
            shown_images.ranked_images,
            *(visit.registry, repository, sorting, PAGE, last),
            text=text,
            orphans=tab == "orphans",
        )
    following = tags.next if tab == "tags" else page.next
    locked = {lock.tag or lock.digest or "": lock.reason for lock in locks}
    return await visit.page(
        "repository.html",
        name=repository,
        parents=_parents(repository),
        line=line,
        whole=whole,
        tab=tab,
        tabs=[(each, _link(tab=each)) for each in TABS],
        sort=str(sorting),
        sorts=_links({"tab": tab, "q": text}, "sort", list(Sorting)),
        q=text,
        rows=_rows(page.images, locked, immutable),
        tags=tags.items,
        pulled=pulled,
        untagged=_untagged(visit),
        total=page.total,
        next=_link(**same, last=following) if following is not None else None,
        first=_link(**same) if last else None,
        host=visit.host,
        may_delete=visit.principal.may(Action.DELETE, repository),
        image_path=f"images/{address(repository)}",
    )


def _untagged(visit: Visit) -> Untagged | None:
    """What the page before this one took a tag from, as its address says; None for no such."""
    digest, operation = visit.query.one("untagged"), visit.query.one("operation")
    if digest is None:
        return None
    return Untagged(parse_digest(digest), operation if operation and is_id(operation) else None)


async def untag(visit: Visit, name: str) -> Response:
    """Take a tag away and nothing else; back to the list, which says where the image is."""
    repository, form = visit.name(name), await visit.form()
    done = await visit.run(
        delete_tag, visit.registry, repository, parse_tag(form.one("untag") or ""), visit.caller
    )
    told = _link(tab="tags", untagged=done.digest, operation=done.operation or "")
    return visit.redirect(f"repositories/{address(repository)}{told}")


def _sorting(text: str | None, tab: str) -> Sorting:
    if text is None:
        # All that has no tag is counted anyway; what takes most comes first.
        return Sorting.FREES if tab == "orphans" else Sorting.PUSHED
    try:
        return Sorting(text)
    except ValueError:
        raise ValueInvalid({"sort": text[:40]}, "sort: unknown order") from None


def _parents(name: str) -> list[tuple[str, str]]:
    """The namespaces above a repository: what each is called, and its page."""
    head, slash, _ = name.partition("/")
    return [(head, f"?ns={address(head)}")] if slash else []


def _rows(
    images: Sequence[ShownImage], locked: Mapping[str, str], immutable: ImmutableTags
) -> list[Row]:
    most = max((image.line.bytes for image in images), default=0) or 1
    return [
        Row(
            image,
            platform_of(image),
            f"{100 * image.line.bytes / most:.2f}",
            f"{100 * image.line.exclusive_bytes / most:.2f}",
            _locked(image, locked) or immutable.first(image.tags) or "",
        )
        for image in images
    ]


def _locked(image: ShownImage, locked: Mapping[str, str]) -> str | None:
    """The reason of a lock on it or on a tag of it."""
    return next((locked[key] for key in (image.details.digest, *image.tags) if key in locked), None)


def platform_of(image: ShownImage) -> str:
    """os/architecture; of an index, nothing: it has several."""
    platform = image.details.platform
    return "/".join(part for part in (platform.os, platform.architecture) if part)


# --- pulls ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bar:
    """The pulls of a class on one day, on top of those of others."""

    puller: str
    label: str
    x: int
    y: str
    height: str


@dataclass(frozen=True, slots=True)
class PullView:
    """Who pulled how often, the bars of a plot that is 100 high, and what was pulled most."""

    days: int
    width: int
    first: datetime
    bars: Sequence[Bar]
    pullers: Sequence[tuple[str, int]]
    most: Sequence[PulledMost]


def _pull_view(history: PullHistory) -> PullView:
    sums: Counter[str] = Counter()
    of_days: Counter[int] = Counter()
    for each in history.by_day:
        sums[each.puller] += each.pulls
        of_days[each.day] += each.pulls
    most = max(of_days.values(), default=0) or 1
    stacked: Counter[int] = Counter()
    bars = []
    for each in history.by_day:
        stacked[each.day] += each.pulls
        day = datetime.fromtimestamp(each.day * _DAY_SECONDS, UTC)
        bars.append(
            Bar(
                each.puller,
                f"{day:%Y-%m-%d} {each.puller} {each.pulls}",
                (each.day - history.first_day) * _DAY_WIDTH,
                f"{100 - 100 * stacked[each.day] / most:.2f}",
                f"{100 * each.pulls / most:.2f}",
            )
        )
    return PullView(
        history.days,
        history.days * _DAY_WIDTH,
        datetime.fromtimestamp(history.first_day * _DAY_SECONDS, UTC),
        bars,
        sums.most_common(),
        history.most,
    )


ROUTES = (
    Route("ui-repositories", "GET", "/ui/repositories", list_repositories, CATALOG),
    Route("ui-repository", "GET", "/ui/repositories/{name}", show_repository, METADATA_READ),
    Route("ui-untag", "POST", "/ui/repositories/{name}", untag, DELETE),
)
