"""Ullage's own interface, in one table: `/api/v1`."""

from __future__ import annotations

from ullage.server.api import deleted, jobs, locks, plans, policies, usage

ROUTES = (
    *plans.ROUTES,
    *usage.ROUTES,
    *jobs.ROUTES,
    *locks.ROUTES,
    *policies.ROUTES,
    *deleted.ROUTES,
)
