"""Surveying another registry: which kind it is, what is in it, what can be given back."""

from __future__ import annotations

from pathlib import Path

from ullage.survey import distribution, layouts
from ullage.survey.account import Account
from ullage.survey.distribution import Progress
from ullage.survey.faults import Faults
from ullage.survey.folders import Unreadable
from ullage.survey.report import Reporter, Survey


def survey(place: Path, progress: Progress, *, top: int, deep: bool) -> Survey:
    """Look at all of a folder. Nothing in it is changed. Raises Unreadable."""
    if not place.is_dir():
        raise Unreadable(f"{place}: {'not a folder' if place.exists() else 'there is none'}")
    root = distribution.find_root(place)
    if root is not None:
        tree = distribution.scan(place, root, progress, deep=deep)
        reporter = Reporter(tree.account, tree.faults, top)
        reporter.add(tree, collected=True)
        return reporter.survey(str(place), "distribution")
    account, faults = Account(), Faults()
    reporter = Reporter(account, faults, top)
    found = 0
    for tree in layouts.scan(place, account, faults, progress, deep=deep):
        reporter.add(tree, collected=False)
        found += 1
    if not found:
        raise Unreadable(
            f"{place}: no registry's storage that is known: expected distribution's, with the "
            "folders `blobs` and `repositories`, or OCI layouts, with a file `oci-layout` each"
        )
    return reporter.survey(str(place), "OCI layouts")
