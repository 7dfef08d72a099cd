"""The page of what people say: whether they find it worth it, what became of their words, and what is doubtful."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from html import escape
from typing import Any, Final

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from fleet_server.store import annotations as spoken
from fleet_server.store import feedback, summary
from fleet_server.store.annotations import AnnotationRow
from fleet_server.web.deps import PoolOf
from fleet_server.web.overview import chip, clock, fault_words, table
from models import form

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
DAYS: Final = 30
SHOWN: Final = 40
CLOCK_OFF_S: Final = 120.0  # a phone's clock is wrong from here on


@router.get("/voices")
def show_voices(pool: PoolOf) -> str:
    """For operators: by site and pseudonym, never by name."""
    with pool.connection() as conn:
        months = feedback.satisfaction(conn, by_site=True)
        sites = feedback.voices(conn, datetime.now(UTC) - timedelta(days=DAYS))
        said, counts = spoken.listing(conn, SHOWN), summary.summary(conn)
    body = (
        '<p><a href="/">Back to the fleet</a></p>'
        f"<h2>Do answers change something for the better?</h2>{_satisfaction(months)}"
        f"<h2>The last {DAYS} days</h2>{_sites(sites)}"
        f"<h2>Said last</h2>{_said(said)}<p class='soft'>{counts['attachments']:,} photos and sounds are stored; "
        f"{counts['attachments_dropped']:,} that no annotation named were dropped.</p>"
    )
    return form.document("What people say", "By site and pseudonym", body, assets=("/assets/fleet.css",))


def _satisfaction(months: list[dict[str, Any]]) -> str:
    rows = [
        (
            row["month"],
            escape(row["site"] or "unknown"),
            f"{row['answered']} of {row['asked']}",
            "-" if row["mean"] is None else f"{row['mean']:.1f}",
            _bar(row["satisfied"]),
        )
        for row in reversed(months)
    ]
    head = ("Month", "Site", "Answered#", "Mean of 1 to 5#", "Say 4 or 5")
    return table(head, rows, "Nobody was asked yet: it begins when somebody has said three things in a month.")


def _bar(share: float | None) -> str:
    if share is None:
        return "-"
    return f'<meter min="0" max="1" value="{share}" aria-label="share that says 4 or 5"></meter> {share:.0%}'


def _sites(sites: list[dict[str, Any]]) -> str:
    rows = [
        (
            escape(row["site"] or "unknown machine"),
            *(f"{row[name]:,}" for name in ("people", "said", "accepted", "held", "rejected", "answers")),
            "-" if row["minutes"] is None else f"{row['minutes']:,.0f} min",
        )
        for row in sites
    ]
    head = ("Site", "People#", "Said#", "Accepted#", "Held#", "Not used#", "To questions#", "After the alarm, median#")
    return table(head, rows, "Nothing was said.")


def _said(said: list[AnnotationRow]) -> str:
    rows = [
        (
            clock(row.received_at),
            f"<strong>{escape(row.asset_id)}</strong>",
            escape(fault_words(row.fault) or row.verdict.replace("_", " ")),
            escape(row.annotator),
            chip(row.status),
            escape(" · ".join(_doubts(row))),
            f'<a href="/trace/{row.annotation_id}">Trace</a>',
        )
        for row in said
    ]
    return table(("Received", "Machine", "Said", "By", "State", "Why#w", ""), rows, "Nothing yet.")


def _doubts(row: AnnotationRow) -> list[str]:
    words = [row.reason] if row.reason else []
    if not row.learn:
        words.append("not to be learned from")
    if row.clock_off_s is not None and abs(row.clock_off_s) > CLOCK_OFF_S:
        ahead = "ahead" if row.clock_off_s > 0 else "behind"
        words.append(f"the phone's clock was {abs(row.clock_off_s) / 60:,.0f} min {ahead}")
    return words
