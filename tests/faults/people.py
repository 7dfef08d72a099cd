"""`python -m tests.faults.people STATE TOLD`: technicians who annotate all the time. Each id is written to TOLD once
the agent's disk has confirmed it: from then on it must not be lost."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from edge_agent.annotate import Journal
from edge_agent.outbox import Outbox
from models import lifeline
from tests.builders import an_annotation


def main(state: Path, told: Path) -> None:
    lifeline.watch()
    journal = Journal(Outbox(state / "outbox.db"))
    with told.open("a", buffering=1) as confirmed:
        while True:
            annotation = an_annotation()
            if journal.take(annotation) == "new":
                confirmed.write(f"{annotation.annotation_id}\n")
            time.sleep(0.15)  # a large crew's pace: faster, and little but their word would be sent


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
