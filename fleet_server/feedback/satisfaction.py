"""Whether the people who teach the models find that it is worth it: one question a month, shown as a trend."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from fleet_server.store import feedback, questions
from fleet_server.store.pool import Connection
from models.form import api, speech

HOST: Final = "server"
MONTH: Final = timedelta(days=30)


def due(conn: Connection, lang: str, now: datetime, person: str | None) -> api.Satisfaction | None:
    """This month's question, unless it was answered or put off, or nothing was said that could have done something."""
    ask = api.ask_id(HOST, person or "", now)
    _, said = questions.day_of(conn, person, now - MONTH)
    if said < api.SATISFACTION_AFTER or feedback.is_here(conn, ask):
        return None
    return api.Satisfaction(ask_id=ask, text=speech.say(lang, "satisfaction"))


def was_asked(ask_id: UUID, person: str, now: datetime) -> bool:
    return ask_id in api.asked_lately(HOST, person, now)
