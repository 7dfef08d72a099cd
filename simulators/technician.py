"""Annotates as people do: late, sometimes wrong, sometimes twice; some at the machine, some at the fleet's page.

`python -m simulators technicians --help`. They see an alarm on the page, walk over, look at the machine (the truth
file), and say what they found through the same HTTP interface as the form.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import signal
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from models import lifeline
from simulators.machine import FAULTS

NAMES = ("Ada", "Björn", "Chidi")


@dataclass(frozen=True)
class Habits:
    """How people are. Shares of all annotations, delays in seconds."""

    delay_s: tuple[float, float] = (1.0, 4.0)
    wrong: float = 0.06
    twice: float = 0.15
    second_opinion: float = 0.3
    unsure: float = 0.04


class Truth:
    """Reads what the plant writes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def kind(self, asset: str, at: float, slack_s: float = 2.0) -> str | None:
        """What was going on at this machine then; None: nothing."""
        for line in self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else ():
            episode = json.loads(line)
            if episode["asset"] == asset and episode["start"] - slack_s <= at <= episode["end"] + slack_s:
                return str(episode["kind"])
        return None


def answer(event: dict[str, Any], truth: str | None, name: str, habits: Habits, dice: random.Random) -> dict[str, Any]:
    """What this person says of this event, as the annotation the form would send."""
    verdict, fault = ("fault", truth) if truth in FAULTS else ("false_alarm", None)
    if dice.random() < habits.unsure:
        verdict, fault = "unsure", None
    elif dice.random() < habits.wrong:
        verdict, fault = ("false_alarm", None) if verdict == "fault" else ("fault", "bearing")
    now = datetime.now(UTC).isoformat()
    return {
        "kind": "annotation",
        "annotation_id": str(UUID(int=dice.getrandbits(128), version=4)),
        "trace_id": event["trace_id"],
        "made_at": now,
        "asset": event["asset_id"],
        "event_id": event["event_id"],
        "start": event["opened_at"],
        "end": event.get("cleared_at") or now,
        "verdict": verdict,
        "fault": fault,
        "severity": "minor" if verdict == "fault" else None,
        "note": "Load was high, sounds fine." if truth == "high_load" else "",
        "annotator": name,
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--server", required=True, metavar="URL", help="the fleet server's address")
    parser.add_argument("--forms", nargs="*", default=[], metavar="ASSET=URL", help="agents' own pages")
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Technicians at work until stopped."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    lifeline.watch()
    dice, habits, truth = random.Random(args.seed), Habits(), Truth(args.truth)
    forms = dict(form.split("=", 1) for form in args.forms)
    seen: set[str] = set()
    plans: list[tuple[float, int, str, dict[str, Any]]] = []  # when, tie-breaker, where, what
    while not stop.wait(0.5):
        for event in _get(f"{args.server}/api/events?limit=50"):
            if event["event_id"] in seen:
                continue
            seen.add(event["event_id"])
            found = truth.kind(event["asset_id"], datetime.fromisoformat(event["raised_at"]).timestamp())
            people = dice.sample(NAMES, 2 if dice.random() < habits.second_opinion else 1)
            for name in people:
                said = answer(event, found, name, habits, dice)
                where = forms.get(event["asset_id"], args.server) if dice.random() < 0.5 else args.server
                when = time.monotonic() + dice.uniform(*habits.delay_s)
                heapq.heappush(plans, (when, dice.getrandbits(32), where, said))
                if dice.random() < habits.twice:  # tapped twice, or said it again in the evening
                    again = (
                        said if dice.random() < 0.5 else said | {"annotation_id": str(UUID(int=dice.getrandbits(128)))}
                    )
                    heapq.heappush(plans, (when + 0.4, dice.getrandbits(32), where, again))
        while plans and plans[0][0] <= time.monotonic():
            when, tie, where, said = heapq.heappop(plans)
            if not _put(f"{where}/api/annotations/{said['annotation_id']}", said):
                heapq.heappush(plans, (time.monotonic() + 2.0, tie, where, said))  # no network: tries again
    return 0


def _get(url: str) -> list[dict[str, Any]]:
    try:
        with urllib.request.urlopen(url, timeout=3) as response:  # noqa: S310 - an address from our own arguments
            body = json.load(response)
    except (OSError, ValueError):
        return []
    events: list[dict[str, Any]] = body["events"] if isinstance(body, dict) else body
    return events


def _put(url: str, body: dict[str, Any]) -> bool:
    """True: taken or refused for good. False: nobody answered, try again."""
    request = urllib.request.Request(  # noqa: S310
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="PUT"
    )
    try:
        with urllib.request.urlopen(request, timeout=3):  # noqa: S310
            return True
    except urllib.error.HTTPError as exc:
        return exc.code < 500
    except OSError:
        return False
