"""One registry with accounts for all tests that leave its accounts as they are."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.access.house import EVERY_ACTION, House
from tests.access.keep import Keep
from tests.support.clock import FakeClock


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Two tenants: `team/*` with an account for each right, and `rival/*` with all of them.

    All may pull `open/*`. There is an image tagged v1 in team/app, rival/app and open/app.
    """
    data = tmp_path_factory.mktemp("house") / "data"
    with House(data, "--anonymous-pull", "open/*") as house:
        for name, *actions in (
            ("reader", "content/read"),
            ("writer", "content/read", "content/write"),
            ("deleter", "content/delete"),
            ("metadata-reader", "metadata/read"),
            ("metadata-writer", "metadata/write"),
            ("restorer", "deleted/read", "deleted/restore"),
        ):
            house.token(name, ["team/*", *actions])
        house.token("other-tenant", ["rival/*", *EVERY_ACTION])
        for repository in ("team/app", "rival/app", "open/app"):
            house.push_image(repository, "v1", f"the layer of {repository}".encode())
        yield house


@pytest.fixture
def keep(tmp_path: Path, clock: FakeClock) -> Iterator[Keep]:
    """A registry with accounts, without a server, on SQLite."""
    keep = Keep(f"sqlite:///{tmp_path / 'ullage.db'}", clock)
    yield keep
    keep.registry.db.close()
