"""The table in docs/benchmarks.md: what was measured is written by the command that measured it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from edge_agent.operate.bench import processor

PAGE: Final = Path("docs/benchmarks.md")
BEGIN: Final = "<!-- written by `make bench WRITE=1`: do not edit -->"
END: Final = "<!-- end -->"
HEAD: Final = (
    "| figure | value | peer or bar | ratio | floor | goal | | measured |",
    "|---|---|---|---|---|---|---|---|",
)


def write(found: Sequence[dict[str, Any]], page: Path = PAGE) -> None:
    """Rows of these figures anew; the others stay as they were measured."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    table, _, after = rest.partition(END)
    rows = {line.split("|")[1].strip(): line for line in table.splitlines() if line.startswith("| `")}
    rows |= {f"`{line['figure']}`": _row(line) for line in found if "value" in line and line["value"] is not None}
    whole = [*HEAD, *(rows[name] for name in sorted(rows))]
    page.write_text(f"{before}{BEGIN}\n\n" + "\n".join(whole) + f"\n\n{END}{after}", encoding="utf-8")


def _row(line: dict[str, Any]) -> str:
    sign = "≥" if line["better"] == "higher" else "≤"
    reached = line["ratio"] >= line["goal"] if line["better"] == "higher" else line["ratio"] <= line["goal"]
    state = "goal" if reached else "floor" if line["ok"] else "**falls short**"
    cells = [
        f"`{line['figure']}`",
        f"{line['value']:.4g} {line['unit']}",
        line["peer"],
        f"{line['ratio']:.4g}",
        f"{sign} {line['floor']:g}",
        f"{sign} {line['goal']:g}",
        state,
        f"{time.strftime('%Y-%m-%d')}, {processor()}, {os.cpu_count()} cores",
    ]
    return "| " + " | ".join(cells) + " |"
