"""Surveying another registry: which kind it is, what is in it, what can be given back."""

from __future__ import annotations

from pathlib import Path

from ullage.survey import distribution
from ullage.survey.distribution import Progress
from ullage.survey.folders import Unreadable
from ullage.survey.report import Survey, report


def survey(place: Path, progress: Progress, *, top: int, deep: bool) -> Survey:
    """Look at all of a folder. Nothing in it is changed. Raises Unreadable."""
    if not place.is_dir():
        raise Unreadable(f"{place}: {'not a folder' if place.exists() else 'there is none'}")
    root = distribution.find_root(place)
    if root is None:
        raise Unreadable(
            f"{place}: no registry's storage that is known: expected distribution's, with the "
            "folders `blobs` and `repositories`"
        )
    return report(str(place), distribution.scan(place, root, progress, deep=deep), top)
