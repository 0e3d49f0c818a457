"""Azure Container Registry's data plane, in one table: `/acr/v1` and `/oauth2`."""

from __future__ import annotations

from ullage.server.acr import data_plane, deleted, oauth2

ROUTES = (*data_plane.ROUTES, *deleted.ROUTES, *oauth2.ROUTES)
