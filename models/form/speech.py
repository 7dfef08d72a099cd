"""Sentences for the phone, in the languages of models/form/words. Text, never HTML: the form escapes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from importlib import resources
from typing import Final

from models.alarms import FAMILY, AlarmState
from models.contract.events import AlarmEvent, FaultOfSensor, IllSensor
from models.contract.labels import LABELS_VERSION, FaultKind, taxonomy
from models.contract.messages import Annotation
from models.contract.people import Question
from models.form.api import POLICY, AlarmView, ModelView, OutcomeView, Policy, QuestionView, Where

LANGUAGES: Final = ("en", "de")
SHOWN_DRIVERS: Final = 3
SENSORS: Final = FAMILY[FaultKind.SENSOR]
# How the server's reasons begin, for people who do not read its log. What is not here is shown as it is.
_REASONS: Final = {
    "duplicate of": "duplicate",
    "superseded by": "later",
    "it ends before": "backwards",
    "a fault needs": "kind",
    "longer than": "long",
    "no such event": "no_event",
    "the event is of": "other_machine",
    "no such asset": "no_asset",
    "speaks of a time": "future",
    "the machine was off": "off",
    "no agreement": "disagree",
    "everybody who looked": "unsure",
    "no valid annotation": "none_left",
}


def language(asked: str | None) -> str:
    """The one asked for ("de", "de-AT"), else English."""
    short = (asked or "")[:2].lower()
    return short if short in LANGUAGES else "en"


@cache
def words(lang: str) -> Mapping[str, str]:
    file = resources.files("models.form") / "words" / f"{language(lang)}.json"
    found: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    return found


def say(lang: str, key: str, **facts: object) -> str:
    return words(lang)[key].format(**facts)


def fault_text(lang: str, code: str) -> str:
    """The code itself where the taxonomy does not know it: a model may have classes of its own."""
    for term in taxonomy(LABELS_VERSION).faults:
        if term.code == code:
            return term.text.get(language(lang), code)
    return code


def reason_text(lang: str, reason: str) -> str:
    """A reason of the server's, without ids and figures."""
    for start, key in _REASONS.items():
        if reason.startswith(start):
            return say(lang, f"reason.{key}")
    return reason


def policy(lang: str) -> Policy:
    return Policy(version=POLICY, text=say(lang, "policy"))


def why(event: AlarmEvent, lang: str, units: Mapping[str, str], *, blind: bool) -> tuple[str, ...]:
    """Why there is an alarm. `units`: of each signal."""
    said = [sensor_says(each, lang, left_out=event.family != SENSORS) for each in event.sensors]
    if event.family == SENSORS and said:
        return tuple(said)
    if event.fault_class and not blind:
        said.append(say(lang, "why.looks_like", fault=fault_text(lang, event.fault_class)))
    for driver in event.drivers[:SHOWN_DRIVERS]:
        signal, _, feature = driver.feature.rpartition(".")
        unit = units.get(signal, "1")
        has_unit = feature in ("mean", "std", "rms", "abs_mean", "peak", "peak_to_peak") and unit != "1"
        said.append(
            say(
                lang,
                "why.driver",
                signal=signal,
                feature=words(lang).get(f"feature.{feature}", feature),
                value=f"{driver.value:.3g}",
                usual=f"{driver.usual:.3g}",
                unit=f" {unit.replace('s2', 's²')}" if has_unit else "",
            )
        )
    said.append(say(lang, "why.score", score=f"{event.score:.2f}", threshold=f"{event.threshold:.2f}"))
    return tuple(said)


def sensor_says(ill: IllSensor, lang: str, *, left_out: bool = False) -> str:
    """What is wrong with a channel, in a sentence."""
    share = ill.fault in (FaultOfSensor.SATURATED, FaultOfSensor.DROPOUTS) and ill.value is not None and ill.value <= 1
    unit = "" if ill.unit == "1" else f" {ill.unit}"

    def number(value: float | None) -> str:
        return "?" if value is None else f"{value:.0%}" if share else f"{value:.4g}{unit}"

    key = f"sensor.{ill.fault.value}"
    said = say(
        lang,
        key if key in words(lang) else "sensor.other",
        signal=ill.signal,
        value=number(ill.value),
        usual=number(ill.usual),
        other=ill.looks_like,
    )
    return said + (" " + say(lang, "sensor.left_out") if left_out else "")


def alarm_view(
    event: AlarmEvent,
    lang: str,
    *,
    device: str,
    open: bool,
    end: datetime,
    score: float,
    units: Mapping[str, str],
    blind: bool = False,
    answered: bool = False,
    state: AlarmState | None = None,
    suppressed: bool = False,
) -> AlarmView:
    """An alarm as the phone shows it."""
    return AlarmView(
        event_id=event.event_id,
        trace_id=event.trace_id,
        asset=event.asset,
        device=device,
        open=open,
        opened_at=event.opened_at,
        end=end,
        score=score,
        threshold=event.threshold,
        looks_like=None if blind else event.fault_class,
        why=why(event, lang, units, blind=blind),
        drivers=event.drivers[:SHOWN_DRIVERS],
        plot=event.plot,
        blind=blind,
        answered=answered,
        severity=event.severity,
        repeats=event.repeats,
        muted=event.muted,
        acknowledged_by=state.acknowledged.by if state and state.acknowledged else None,
        assigned_to=state.assigned_to if state else None,
        snoozed_until=state.snoozed_until if state else None,
        level=state.level if state else 0,
        comments=state.comments if state else 0,
        suppressed=suppressed,
    )


def question_view(question: Question, lang: str) -> QuestionView:
    text = say(lang, f"question.{question.kind}", asset=question.asset)
    return QuestionView(**question.model_dump(), text=text)


def outcome_view(
    said: Annotation,
    lang: str,
    *,
    state: Where,
    status: str = "",
    reason: str = "",
    model: ModelView | None = None,
    suppressed: bool = False,
) -> OutcomeView:
    """What became of an annotation. `status` is the server's: accepted, held, rejected, empty if not heard yet."""
    outcome, key = "waiting", "outcome.waiting"
    if model:
        outcome, key = "learned", "outcome.learned_released" if model.released else "outcome.learned"
    elif status == "accepted" and not said.learn:
        outcome, key = "kept_out", "outcome.kept_out"
    elif status in ("accepted", "held"):
        outcome, key = status, f"outcome.{status}"
    elif status == "rejected":
        outcome, key = "refused", "outcome.refused"
    facts = {"model": model.name, "version": model.version} if model else {}
    text = [say(lang, key, reason=reason_text(lang, reason), **facts)]
    if suppressed:
        text.append(say(lang, "outcome.suppressed"))
    return OutcomeView.model_validate(
        {
            **said.model_dump(include={"annotation_id", "asset", "event_id", "verdict", "fault", "made_at"}),
            "state": state,
            "outcome": outcome,
            "reason": reason,
            "suppressed": suppressed,
            "model": model,
            "text": " ".join(text),
        }
    )
