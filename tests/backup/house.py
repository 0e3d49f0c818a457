"""A registry in a folder, in this process, that is backed up and restored."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.support.registry import push_image
from ullage.backup.lease import answer
from ullage.backup.make import Made, Source, Wishes, back_up
from ullage.backup.put_back import Restored, RestoreWishes
from ullage.backup.restore import choose
from ullage.blobs.opening import blob_files
from ullage.config.loading import load_settings
from ullage.config.settings import Settings
from ullage.database.frozen import Frozen, freeze
from ullage.oci.reference import parse_repository_name, parse_tag
from ullage.registry.context import Registry
from ullage.registry.pull.read import get_manifest, list_tags
from ullage.wiring.backups import restore_backup
from ullage.wiring.opening import open_registry

_PLAIN, _DEEP = Wishes(), RestoreWishes(deep=True)
APP = parse_repository_name("app")


class House:
    """`registry` is open in `data`; `folder` is for its backups."""

    def __init__(self, registry: Registry, settings: Settings, folder: Path) -> None:
        self.registry = registry
        self.settings = settings
        self.folder = folder

    def push(self, tag: str, layer: bytes | None = None) -> str:
        return push_image(self.registry, "app", tag, [layer or f"layer of {tag}".encode() * 100])

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        return answer(self.registry, request)

    def back_up(
        self,
        wishes: Wishes = _PLAIN,
        ask: Callable[[dict[str, Any]], Any] | None = None,
        after_snapshot: Callable[[], None] = lambda: None,
        **changes: Any,
    ) -> Made:
        source = Source(self.registry.blobs, blob_files(self.settings.storage_url))

        @contextmanager
        def frozen(folder: Path, leaving_out: Collection[str]) -> Iterator[Frozen]:
            with freeze(self.settings.database_url, folder, leaving_out) as moment:
                yield moment
            after_snapshot()

        wishes = replace(wishes, **changes)
        now = self.registry.now()
        *_, made = back_up(self.folder, ask or self.ask, frozen, source, wishes, now, "1.2.3")
        assert isinstance(made, Made)
        return made

    def bytes_of(self, layer: bytes) -> Path:
        """The registry's file with these bytes."""
        (found,) = [
            path for path in self.settings.data.glob("blobs/*/*") if path.read_bytes() == layer
        ]
        return found


@contextmanager
def house(data: Path, folder: Path, **settings: str) -> Iterator[House]:
    given = load_settings({"data": str(data), "ballast": "0", **settings}, {})
    with open_registry(given) as (registry, _):
        yield House(registry, given, folder)


def restored(
    folder: Path,
    data: Path,
    wishes: RestoreWishes = _DEEP,
    **settings: str,
) -> Restored:
    """Restore the newest backup into `data`. Raises CannotStart, BackupFailed."""
    given = load_settings({"data": str(data), **settings}, {})
    *_, done = restore_backup(given, choose(folder), wishes)
    assert isinstance(done, Restored)
    return done


def tags_in(registry: Registry) -> dict[str, str]:
    """Every tag of the repository, and the digest of its image."""
    tags = list_tags(registry, APP, 1000, None).items
    return {tag: get_manifest(registry, APP, parse_tag(tag)).digest for tag in tags}
