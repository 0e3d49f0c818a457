"""Stored bytes that change, shrink, grow or vanish: never a short answer, found, healed (gate G20).

A pull sees a wrong size at once; another content is what `ullage check --deep` finds. Pushing the
image again heals it in either case (faults F19, F47). ULLAGE_DAMAGES sets how many, ULLAGE_SEED
with which dice.
"""

import os
import random
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from tests.crash.harness import (
    Answer,
    CrashServer,
    ForkServer,
    Image,
    Lost,
    User,
    assert_accounted,
    digest_of,
    make_image,
    some_bytes,
)

DAMAGES = int(os.environ.get("ULLAGE_DAMAGES", "") or 10)
SEED = int(os.environ.get("ULLAGE_SEED", "1"))
AT_ONCE = 20
CORRUPTION = 2


def _flip(path: Path, chance: random.Random) -> None:
    with path.open("r+b") as file:
        at = chance.randrange(path.stat().st_size)
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1 << chance.randrange(8)]))


def _zero(path: Path, chance: random.Random) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(chance.randrange(size // 2))
        file.write(bytes(size // 2))


def _cut(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.randrange(path.stat().st_size))


def _grow(path: Path, chance: random.Random) -> None:
    with path.open("ab") as file:
        file.write(chance.randbytes(chance.randint(1, 5_000)))


def _lose(path: Path, chance: random.Random) -> None:
    path.unlink()


OTHER_SIZE = (_cut, _grow, _lose)
OTHER_CONTENT = (_flip, _zero)


def test_what_decays_is_never_short_is_found_and_is_healed(
    forkserver: ForkServer, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    chance, done = random.Random(SEED), 0
    with CrashServer(forkserver, tmp_path / "data", "--read-grace", "0s") as server:
        while done < DAMAGES:
            some = min(AT_ONCE, DAMAGES - done)
            images = [_image(SEED, done + number) for number in range(some)]
            _decay_and_heal(server, images, chance)
            done += some
    record_property("damages", done)


def _image(seed: int, number: int) -> Image:
    """Of one layer, small enough to be kept in memory or not."""
    layer = some_bytes(f"decay {seed} {number}", 1_000 + number % 4 * 40_000)
    return make_image(layer, config=f"config {seed} {number}".encode())


def _decay_and_heal(server: CrashServer, images: list[Image], chance: random.Random) -> None:
    server.start()
    with User(server.host) as user:
        for number, image in enumerate(images):
            user.push("decay/app", image, f"v{number}")
        server.kill9()
        sizes_changed = [_damage(server, image, chance) for image in images]
        server.start()
        user.connect(server.host)
        for image, other_size in zip(images, sizes_changed, strict=True):
            _pull_what_is_damaged(user, image, other_size=other_size)
        # Its bytes are looked at all the same, whatever pulls have found out.
        code, said = server.run_check("--deep", "--repair")
        assert code == CORRUPTION, said
        for number, image in enumerate(images):
            user.push("decay/app", image, f"v{number}")
        user.verify()
        # The bad bytes are gone by then: a tombstone says the size that they should have had.
        assert_accounted(server)
        server.check("--deep")
        server.assert_no_500()
        server.kill9()


def _damage(server: CrashServer, image: Image, chance: random.Random) -> bool:
    """Damage the image's layer on the disk; whether a pull must see it."""
    key = _key_of(server.database, digest_of(image.blobs[1]))
    act = chance.choice([*OTHER_SIZE, *OTHER_CONTENT])
    act(server.store / "blobs" / key[:2] / key, chance)
    return act in OTHER_SIZE


def _key_of(database: str, digest: str) -> str:
    engine = sa.create_engine(database, poolclass=sa.NullPool)
    try:
        with engine.connect() as connection:
            query = sa.text("SELECT storage_key FROM blobs WHERE digest = :digest")
            return str(connection.execute(query, {"digest": digest}).scalar_one())
    finally:
        engine.dispose()


def _pull_what_is_damaged(user: User, image: Image, *, other_size: bool) -> None:
    """The whole length, or no success: Lost is an answer that broke off."""
    data = image.blobs[1]
    answer: Answer | None = None
    try:
        answer = user.client.ask("GET", f"/v2/decay/app/blobs/{digest_of(data)}")
    except Lost:
        return
    if answer.status == 200:
        assert not other_size
        assert len(answer.body) == len(data)
