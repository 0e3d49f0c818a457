"""What is in the registry before something is crashed: a bit of everything."""

from tests.crash.harness import Journal, User, make_image, make_index, some_bytes

SHARED = some_bytes("shared", 30_000)
# Large enough to be sent as a file rather than from memory.
LARGE = some_bytes("large", 200_000)
ONE = make_image(SHARED, some_bytes("one", 10_000))
TWO = make_image(SHARED, some_bytes("two", 20_000))
ALONE = make_image(SHARED, LARGE)
PLATFORMS = (make_image(some_bytes("amd64", 5_000)), make_image(some_bytes("arm64", 6_000)))
MULTI = make_index(*PLATFORMS)
SIGNATURE = make_image(some_bytes("signature", 100), subject=MULTI)


def stock_up(host: str) -> Journal:
    """Push it all; returns what the pusher knows."""
    with User(host) as user:
        user.push("base/app", ONE, "v1")
        user.put("base/app", ONE, "latest")
        user.push("base/app", TWO, "v2")
        user.push("base/alone", ALONE, "only")
        for image in PLATFORMS:
            user.push("base/multi", image)
        user.put("base/multi", MULTI, "multi")
        user.push("base/multi", SIGNATURE)
        return user.journal
