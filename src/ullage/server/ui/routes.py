"""Every page of the UI, in one table; each module has its own rows."""

from __future__ import annotations

from ullage.server.ui import (
    administration,
    cleanup,
    deleted,
    images,
    jobs,
    login,
    plans,
    repositories,
    retention,
    search,
    space,
    static_files,
)

ROUTES = (
    *login.ROUTES,
    *static_files.ROUTES,
    *space.ROUTES,
    *repositories.ROUTES,
    *images.ROUTES,
    *plans.ROUTES,
    *deleted.ROUTES,
    *jobs.ROUTES,
    *cleanup.ROUTES,
    *retention.ROUTES,
    *administration.ROUTES,
    *search.ROUTES,
)
# What the menu leads to: pages without a part of their own in the path.
SECTIONS = frozenset({"space"}) | {
    route.path.removeprefix("/ui/") for route in ROUTES if "{" not in route.path
}
