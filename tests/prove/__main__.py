"""`python -m tests.prove`: run the release gates in full, go on where it was, write it down.

python -m tests.prove                       # all of them; takes about ten hours on two cores
python -m tests.prove --gate G4 --count 500 # one of them, and less of it
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.prove.gates import ABSENT, GATES
from tests.prove.proving import Proving, commit_of
from tests.prove.runner import ROOT, run_pytest


def main() -> int:
    """The number of gates that failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.prove", description=__doc__)
    parser.add_argument("--gate", action="append", help="only this one, such as G4; repeatable")
    parser.add_argument("--count", type=int, help="so much of it, instead of the gate's own count")
    parser.add_argument("--again", action="store_true", help="forget what was done before")
    parser.add_argument("--folder", type=Path, default=ROOT / ".prove", help="for the progress")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "proof.md")
    asked = parser.parse_args()
    wanted = set(asked.gate or (gate.id for gate in GATES))
    for name in sorted(wanted & ABSENT.keys()):
        print(f"{name}: not run: {ABSENT[name]}")
    unknown = wanted - ABSENT.keys() - {gate.id for gate in GATES}
    if unknown:
        parser.error(f"no such gate: {', '.join(sorted(unknown))}")
    proving = Proving(asked.folder, asked.page, commit_of(ROOT), run_pytest)
    proved = [
        proving.prove(gate, asked.count, again=asked.again) for gate in GATES if gate.id in wanted
    ]
    return proved.count(False)


if __name__ == "__main__":
    sys.exit(main())
