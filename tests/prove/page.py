"""docs/proof.md: the newest run of each gate as a row of its table."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_ROW = re.compile(r"^\| (G[0-9]+[a-z]?) \|.*\n", re.MULTILINE)
HEAD = "| gate | what | done | of | seconds | commit | result |\n|---|---|---|---|---|---|---|\n"


@dataclass(frozen=True)
class Row:
    """What ran of one gate."""

    gate: str
    what: str
    done: str
    of: str
    seconds: str
    commit: str
    result: str

    def __str__(self) -> str:
        cells = (self.gate, self.what, self.done, self.of, self.seconds, self.commit, self.result)
        return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |\n"


def put_row(page: Path, row: Row) -> None:
    """Put it in the place of the gate's older one, or where it belongs in their order."""
    text = page.read_text()
    start = text.index(HEAD) + len(HEAD)
    rows = {found[1]: found[0] for found in _ROW.finditer(text, start)}
    end = start + sum(map(len, rows.values()))
    rows[row.gate] = str(row)
    page.write_text(
        text[:start] + "".join(rows[id_] for id_ in sorted(rows, key=_order)) + text[end:]
    )


def _order(gate: str) -> tuple[int, str]:
    number = re.sub(r"[^0-9]", "", gate)
    return int(number), gate
