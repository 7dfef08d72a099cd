"""The overview: the loop as stations with live counts, then what each of them is made of. HTML, escaped here and
nowhere else; `fleet.js` replaces the sections that have changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import Any
from uuid import UUID

from fleet_server.store.bundles import BundleRow
from fleet_server.store.decisions import DecisionRow
from fleet_server.store.devices import DeviceRow
from fleet_server.store.events import EventRow
from fleet_server.store.runs import RunRow
from fleet_server.web.fleet import state
from models.alarms import AlarmState
from models.contract.labels import FAULT_TEXT, FaultKind

TONE = {
    **dict.fromkeys(
        ("ok", "active", "accepted", "verified", "done", "candidate", "approved", "pass", "running"), "good"
    ),
    **dict.fromkeys(("alarm", "rejected", "rolled_back", "harmed", "stopped", "failed", "barred", "open"), "bad"),
    **dict.fromkeys(
        ("silent", "offline", "held", "paused", "refused", "trial", "waiting", "fetching", "checking", "apart"), "wait"
    ),
}


@dataclass(frozen=True)
class Facts:
    """Everything on the page, read in one transaction."""

    at: datetime
    summary: Mapping[str, Any]
    ledger: Mapping[str, Any]
    devices: Sequence[DeviceRow]
    events: Sequence[EventRow]
    states: Mapping[UUID, AlarmState]
    rollouts: Sequence[Mapping[str, Any]]
    runs: Sequence[RunRow]
    bundles: Sequence[BundleRow]
    decisions: Sequence[DecisionRow]


def page(facts: Facts) -> str:
    """The sections, each with an id by which it is replaced."""
    sections = {
        "fresh": _fresh(facts),
        "loop": _loop(facts),
        "devices": _devices(facts),
        "alarms": _alarms(facts),
        "rollouts": _rollouts(facts),
        "training": _training(facts),
        "decisions": _decisions(facts),
    }
    return "".join(f'<section id="{name}">{html}</section>' for name, html in sections.items())


def _fresh(facts: Facts) -> str:
    totals, closed = facts.ledger["totals"], facts.ledger["closed"]
    if closed:
        verdict = f"{chip('ok', 'ledger closed')} {totals['produced']:,} records produced, every one accounted for"
    else:
        verdict = f"{chip('alarm', 'ledger open')} {totals['difference']:,} of {totals['produced']:,} records missing"
    aside = sum(totals["evicted"].values())
    more = [f"{totals['waiting']:,} waiting on devices"]
    more += [f"{totals['quarantined']:,} quarantined"] if totals["quarantined"] else []
    more += [f"{aside:,} dropped by full devices"] if aside else []
    more += [f"{facts.summary['shed']:,} not taken from devices that flood"] if facts.summary["shed"] else []
    said = f'<span class="soft">· {" · ".join(more)}</span>'
    links = '<p><a href="/voices">What people say</a> · <a href="/trace">Trace an id</a></p>'
    return f"<p>Data of {clock(facts.at)}</p><p>{verdict} {said}</p>{links}"


def _loop(facts: Facts) -> str:
    s, labels, runs = facts.summary, facts.summary["labels"], facts.summary["runs"]
    last_run = next((run for run in facts.runs if run.ended_at is not None), None)
    states = [state(row, facts.at) for row in facts.devices]
    silent = "".join(f", {states.count(word)} {word}" for word in ("silent", "offline") if word in states)
    live = next((row for row in facts.rollouts if row["state"] in ("running", "paused")), None)
    newest = facts.rollouts[0] if facts.rollouts else None
    wave = "none yet"
    if live:
        wave = f"version {live['version']}, wave {live['wave']} of {live['n_waves']}, {live['state']}"
    elif newest:
        wave = f"last: version {newest['version']}, {newest['state']}"
    versions = sorted(s["versions"].items(), key=lambda item: int(item[0]))
    stations = [
        ("Scored", s["windows"], f"windows, by {_devices_word(s['devices'])}{silent}", "devices",
         "Each device cuts its sensor signals into windows and scores them itself, with or without a network."),
        ("Alarms", s["alarms"], f"{s['alarms_open']} open now", "alarms",
         "Windows that score too high in a row become one alarm, with the reasons for it."),
        ("Annotations", s["annotations"], f"{labels.get('rejected', 0)} said twice or refused", "alarms",
         "Technicians say what an alarm really was, on their phone, at the machine."),
        ("Labels", labels.get("accepted", 0), f"accepted, {labels.get('held', 0)} held", "alarms",
         "Only what enough people agree on may teach the next model."),
        ("Retraining", sum(runs.values()), f"runs, {_gate_words(last_run)}", "training",
         "New labels start a training run. Its gate compares the candidate with what runs today."),
        ("Rollout", sum(s["rollouts"].values()), wave, "rollouts",
         "A person approves; then devices try the new model wave by wave, beside the old one."),
        ("Running", ", ".join(f"v{version}" for version, _ in versions) or "-",
         ", ".join(f"v{version} on {_devices_word(n)}" for version, n in versions) or "on no device yet", "devices",
         "A device keeps the model only if it does no harm there. Its windows begin the loop again."),
    ]  # fmt: skip
    items = "".join(
        f'<li><a href="#{target}"><span class="name">{i}. {name}</span>'
        f"<strong>{_number(count)}</strong>"
        f'<span class="more">{escape(more)}</span></a><p class="why">{why}</p></li>'
        for i, (name, count, more, target, why) in enumerate(stations, start=1)
    )
    return f'<h2>The loop</h2><ol class="loop">{items}</ol>'


def _devices(facts: Facts) -> str:
    rows = [
        (
            escape(row.device_id),
            chip(state(row, facts.at)),
            escape(", ".join(row.assets)) or "-",
            f"{escape(row.model_name or '')} {row.model_version}" if row.model_version else "-",
            (chip(row.step) if row.step else "-") + _problem(row),
            "-" if row.waiting is None else f"{row.waiting:,}",
            _ago(facts.at, row.last_seen),
        )
        for row in facts.devices
    ]
    head = ("Device", "State", "Machines", "Runs", "Release", "Waiting#", "Last seen#")
    labels = '<p class="soft"><a href="/labels">QR labels of all machines, to print</a></p>' if rows else ""
    empty = "No device has spoken yet. They appear with their first message."
    return "<h2>Devices</h2>" + table(head, rows, empty) + labels


def _problem(row: DeviceRow) -> str:
    """What keeps its model from being changed as it should, in its own words."""
    words = (row.heartbeat or {}).get("switch_problem")
    return f' <span class="soft">{escape(str(words))}</span>' if words else ""


def _alarms(facts: Facts) -> str:
    rows = [
        (
            f"<strong>{escape(row.asset_id)}</strong>",
            clock(row.raised_at),
            chip("open" if row.cleared_at is None else "cleared") + _life(row, facts.states[row.event_id], facts.at),
            f"{row.severity or '-'} {row.score:.2f}",
            escape(
                f"{fault_words(row.fault_class) or 'unusual'} (v{row.model_version}{', on trial' if row.trial else ''})"
            ),
            _said(row),
            f'<a class="button quiet" href="/annotate/{row.event_id}">What was it?</a> '
            f'<a href="/trace/{row.event_id}">Trace</a>',
        )
        for row in facts.events
    ]
    head = ("Machine", "Raised", "State#w", "Severity, score#", "The model says#w", "People say#w", "")
    return "<h2>Alarms</h2>" + table(head, rows, "No alarm yet.")


def _life(row: EventRow, state: AlarmState, at: datetime) -> str:
    """What was done about an alarm, as far as it matters now."""
    words = []
    if row.muted:
        words.append("in maintenance")
    if state.acknowledged:
        words.append(f"acknowledged by {state.acknowledged.by}")
    elif state.dismissed:
        words.append(f"dismissed by {state.dismissed.by}")
    elif row.cleared_at is None:
        words.append(f"escalated to level {state.level}" if state.level else "not acknowledged")
    if state.snoozed_until and at < state.snoozed_until:
        words.append("snoozed")
    if state.assigned_to:
        words.append(f"for {state.assigned_to}")
    if row.repeats > 1:
        words.append(f"came back {row.repeats - 1} times")
    return f' <span class="soft">{escape(", ".join(words + list(state.conflicts)))}</span>'


_MODES = {"rollback": "Return to", "shadow": "In shadow:", "floor": "New floor, staying on"}


def _rollouts(facts: Facts) -> str:
    cards = []
    for row in facts.rollouts:
        waves: dict[int, list[str]] = {}
        for order in row["assignments"]:
            what = order["step"] or order["standing"]
            # Verified once, but ordered something else since: it is no longer what the device does.
            what = "was active" if what == "active" and order["superseded"] else what
            chips = waves.setdefault(order["wave"], [])
            chips.append(f"<li><span>{escape(order['device_id'])}</span> {chip(what)}</li>")
        lists = "".join(
            f'<div class="wave"><h4>Wave {number}{" · now" if _is_now(row, number) else ""}</h4>'
            f"<ul>{''.join(chips)}</ul></div>"
            for number, chips in sorted(waves.items())
        )
        what = _MODES.get(row["mode"], "Rollout of")
        reason = f'<p class="soft">{escape(row["reason"])}</p>' if row["reason"] else ""
        cards.append(
            f'<article class="card"><h3>{what} {escape(row["name"])} {row["version"]} {chip(row["state"])}</h3>'
            f'<p class="soft">Started {clock(row["started_at"])} · <a href="/trace/{row["rollout_id"]}">Trace</a></p>'
            f'{reason}<div class="waves">{lists}</div></article>'
        )
    body = f'<div class="cards wide">{"".join(cards)}</div>' if cards else _empty("No rollout yet.")
    return f"<h2>Rollouts</h2>{body}"


def _is_now(row: Mapping[str, Any], wave: int) -> bool:
    return row["wave"] == wave and row["ended_at"] is None


def _training(facts: Facts) -> str:
    runs = [
        (
            clock(row.started_at),
            escape(f"{row.model} {row.version}" if row.version else row.model),
            chip(row.state, {"candidate": "gate passed", "refused": "gate refused"}.get(row.state)),
            escape(row.reason or f"at step {row.step}"),
            escape(row.cause),
            f'<a href="/trace/{escape(row.run_id)}">Trace</a>',
        )
        for row in facts.runs
    ]
    bundles = [
        (
            escape(f"{row.name} {row.version}"),
            chip(row.state),
            escape((row.gate or {}).get("verdict", "no gate has judged it")),
            escape(row.approved_by or "-"),
            f"<code>{row.sha256[:12]}</code>",
            f'<a href="/trace/{row.sha256}">Trace</a>',
        )
        for row in facts.bundles
    ]
    run_head = ("Started", "Model", "Gate", "Why#w", "Started because#w", "")
    bundle_head = ("Model", "State", "Gate", "Approved by", "SHA-256", "")
    return (
        "<h2>Retraining</h2>"
        + table(run_head, runs, "No training run yet. It starts by itself when there are enough new labels.")
        + "<h2>Models</h2>"
        + table(bundle_head, bundles, "No model yet.")
    )


def _decisions(facts: Facts) -> str:
    rows = [
        (clock(row.at), escape(row.kind), escape(row.subject[:48]), chip(row.outcome), escape(row.reason))
        for row in facts.decisions
    ]
    return "<h2>Decisions on record</h2>" + table(("When", "Kind", "Of", "Outcome", "Reason#w"), rows, "None yet.")


# -- pieces ------------------------------------------------------------------------------------------------------------


def chip(word: str, text: str | None = None) -> str:
    """A state as a word on a coloured ground; the word alone says it too."""
    return f'<span class="chip {TONE.get(word, "")}">{escape((text or word).replace("_", " "))}</span>'


def clock(at: datetime) -> str:
    """UTC without script; `fleet.js` puts it into the visitor's own time."""
    return f'<time datetime="{at.isoformat()}">{at:%d %b %H:%M:%S} UTC</time>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], empty: str) -> str:
    """Cells are HTML. A heading that ends in # is of numbers, in #w of words that may wrap."""
    marks = ["wide" if name.endswith("#w") else "n" if name.endswith("#") else "" for name in head]
    names = [name.removesuffix("#w").removesuffix("#") for name in head]
    lines = "".join(
        "<tr>"
        + "".join(f'<td class="{m}" data-name="{n}">{c}</td>' for c, m, n in zip(row, marks, names, strict=True))
        + "</tr>"
        for row in rows
    )
    if not lines:
        return _empty(empty)
    heads = "".join(f'<th scope="col" class="{mark}">{name}</th>' for name, mark in zip(names, marks, strict=True))
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>'
    )


def _empty(text: str) -> str:
    return f'<p class="card soft">{text}</p>'


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else escape(str(value))


def _ago(now: datetime, then: datetime) -> str:
    seconds = max(0, round((now - then).total_seconds()))
    if seconds < 120:
        return f"{seconds} s ago"
    return f"{seconds // 60} min ago" if seconds < 7200 else clock(then)


def fault_words(code: str | None) -> str | None:
    return FAULT_TEXT[FaultKind(code)] if code in list(FaultKind) else code


def _said(row: EventRow) -> str:
    if row.label_verdict is None or row.label_status is None:
        return f'<span class="soft">{"nobody yet" if not row.annotations else f"{row.annotations}, not counted"}</span>'
    text = fault_words(row.label_fault) or row.label_verdict.replace("_", " ")
    return f"{chip(row.label_status)} {escape(text)}"


def _devices_word(n: int) -> str:
    return "1 device" if n == 1 else f"{n:,} devices"


def _gate_words(run: RunRow | None) -> str:
    if run is None:
        return "none has ended yet"
    words = {"candidate": "gate passed", "refused": "gate refused"}.get(run.state, run.state)
    return f"last: {words}" + (f", version {run.version}" if run.version else "")
