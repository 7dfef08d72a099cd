"""What the journal holds, as the phone is shown it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from edge_agent.annotate import KEEP, Episode, Journal, Said
from models.alarms import AlarmState
from models.contract.health import AssetHealth
from models.contract.people import Question, Verdicted
from models.form import api, speech

DAY: Final = timedelta(days=1)
MONTH: Final = timedelta(days=30)


def asset_view(name: str, device: str, asset: AssetHealth) -> api.AssetView:
    return api.AssetView(
        id=name,
        kind=asset.kind,
        hall=asset.hall,
        code=api.short_code(name, asset.code),
        device=device,
        state=asset.state,
        alarm=asset.alarm,
        score=asset.score,
        last_sample_at=asset.last_sample_at,
        maintenance_since=asset.maintenance_since,
        maintenance_id=asset.maintenance_id,
    )


def alarm_view(
    episode: Episode,
    device: str,
    lang: str,
    asset: AssetHealth | None,
    *,
    blind: bool,
    answered: bool,
    state: AlarmState,
    suppressed: bool = False,
) -> api.AlarmView:
    end = episode.end
    if episode.open and asset and asset.last_sample_at:
        end = max(end, asset.last_sample_at)
    return speech.alarm_view(
        episode.event,
        lang,
        device=device,
        open=episode.open,
        end=end,
        score=episode.score,
        units={signal.name: signal.unit for signal in asset.signals} if asset else {},
        blind=blind,
        answered=answered,
        state=state,
        suppressed=suppressed,
    )


def outcome_view(said: Said, lang: str, news: dict[str, Verdicted], *, suppressed: bool = False) -> api.OutcomeView:
    """With what the server made of it, as far as it has said so."""
    heard = news.get(str(said.annotation.annotation_id))
    model = None
    if heard and heard.model:
        model = api.ModelView(name=heard.model, version=heard.version, released=heard.released)
    return speech.outcome_view(
        said.annotation,
        lang,
        state="stored" if said.stored else "kept",
        status=heard.status if heard else "",
        reason=heard.reason if heard else "",
        model=model,
        suppressed=suppressed,
    )


def questions(journal: Journal, now: datetime, person: str | None) -> list[Question]:
    """The server's, less what was answered or declined here, and no more than one person is asked in a day."""
    today = [each.annotation for each in journal.said(KEEP, person) if now - each.annotation.made_at < DAY]
    declined = [each for each in journal.did() if each.signal == "question_declined" and person in (None, each.person)]
    asked = sum(said.answers is not None for said in today) + sum(now - each.made_at < DAY for each in declined)
    if len(today) >= api.TIRED or asked >= api.ASKED_A_DAY:
        return []
    done = {said.answers for said in today} | {each.about for each in declined}
    judged = {said.event_id for said in today if said.event_id}
    found = [
        each
        for each in journal.news().questions
        if each.question_id not in done
        and now < each.expires_at
        # A second opinion is asked of others; without sign-in nobody knows who is another.
        and (each.event_id not in judged or (each.blind and person is None))
    ]
    return found[: api.ASKED_A_DAY - asked]


def satisfaction(journal: Journal, host: str, lang: str, now: datetime, person: str | None) -> api.Satisfaction | None:
    """This month's question, unless it was answered or put off, or nothing was said that could have done something."""
    ask = api.ask_id(host, person or "", now)
    said = [each for each in journal.said(KEEP, person) if now - each.annotation.made_at < MONTH]
    if len(said) < api.SATISFACTION_AFTER or ask in {each.feedback_id for each in journal.did()}:
        return None
    return api.Satisfaction(ask_id=ask, text=speech.say(lang, "satisfaction"))
