"""The technician's form, served by agent and server alike: the page, and what it sends back.

Plain HTML that works without script. The annotation's id is made with the page, so sending it twice is one annotation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid4

from pydantic import ValidationError

from models.contract.ids import new_trace_id
from models.contract.labels import FAULT_TEXT, FaultKind, Severity, Verdict
from models.contract.messages import Annotation

STATIC: Final = Path(__file__).parent / "static"
# Nothing from elsewhere, no inline script: the pages hold what strangers wrote.
CSP: Final = "default-src 'self'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
HEADERS: Final = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}
_VERDICTS: Final = {
    Verdict.FAULT: "It is a fault",
    Verdict.FALSE_ALARM: "False alarm",
    Verdict.UNSURE: "Not sure",
}
_SEVERITIES: Final = {Severity.MINOR: "Minor", Severity.MAJOR: "Major", Severity.STOP: "Machine must stop"}


class Subject(NamedTuple):
    """What is annotated: an event, or an asset at some time."""

    asset: str
    start: datetime
    end: datetime
    event_id: UUID | None = None
    trace_id: UUID | None = None
    says: str = ""  # what the model says, in one line


def document(
    title: str,
    subtitle: str,
    body: str,
    *,
    live: str | None = None,
    script: str | None = None,
    assets: Sequence[str] = (),
) -> str:
    """A whole page around `body`, which is HTML already. `live`: where the body's current form comes from; `assets`:
    addresses of more style sheets and modules."""
    scripts = [name for name in ("live.js" if live else None, script) if name]
    tags = "".join(f'<script type="module" src="/static/{name}"></script>' for name in scripts)
    tags += "".join(
        f'<link rel="stylesheet" href="{escape(url)}">'
        if url.endswith(".css")
        else f'<script type="module" src="{escape(url)}"></script>'
        for url in assets
    )
    mark = f' data-live="{escape(live)}"' if live else ""
    clock = ' · <span id="clock"></span>' if live else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<link rel="stylesheet" href="/static/style.css">
{tags}
</head>
<body>
<header><h1>{escape(title)}</h1><p>{escape(subtitle)}{clock}</p></header>
<div id="strip" class="strip" role="status" hidden></div>
<main{mark}>{body}</main>
</body>
</html>
"""


def form_page(subject: Subject, action: str, problem: str = "", said: Mapping[str, str] | None = None) -> str:
    """The form for one subject; `said` is what was filled in before a problem."""
    said = said or {}
    trouble = f'<p class="problem" role="alert">{escape(problem)}</p>' if problem else ""
    hidden = {
        "annotation_id": said.get("annotation_id") or str(uuid4()),
        "asset": subject.asset,
        "event_id": str(subject.event_id or ""),
        "trace_id": str(subject.trace_id or ""),
        "start": subject.start.isoformat(),
        "end": subject.end.isoformat(),
    }
    fields = "".join(f'<input type="hidden" name="{k}" value="{escape(v)}">' for k, v in hidden.items())
    when = f"{subject.start:%d %b, %H:%M} to {subject.end:%H:%M} UTC"
    body = f"""
<form class="note-form" method="post" action="{escape(action)}">
{fields}{trouble}
<p><strong>{escape(subject.asset)}</strong> · {when}<br><span class="soft">{escape(subject.says)}</span></p>
<fieldset><legend>What did you find?</legend>
<div class="tiles three">{_tiles("verdict", _VERDICTS, said)}</div></fieldset>
<fieldset class="fault-only"><legend>Which fault?</legend>
<div class="tiles">{_tiles("fault", FAULT_TEXT, said)}</div></fieldset>
<fieldset class="fault-only"><legend>How bad is it?</legend>
<div class="tiles three">{_tiles("severity", _SEVERITIES, said)}</div></fieldset>
<fieldset><label class="field" for="note">Note (may stay empty)</label>
<textarea id="note" name="note" rows="3" maxlength="2000">{escape(said.get("note", ""))}</textarea></fieldset>
<fieldset><label class="field" for="annotator">Your name</label>
<input id="annotator" name="annotator" type="text" required maxlength="80" autocomplete="name"
 value="{escape(said.get("annotator", ""))}"></fieldset>
<button>Save</button>
</form>"""
    return document("What was it?", "Your word trains the next model", body, script="form.js")


def saved_page(annotation: Annotation, sent: bool, back: str) -> str:
    """What happens now."""
    where = (
        "It is stored on the fleet server."
        if sent
        else "It is stored on this device, and sent when there is a network."
    )
    body = f"""<div class="done"><p class="tick" aria-hidden="true">✓</p><h2>Saved</h2><p>{where}</p>
<p class="soft">{_VERDICTS[annotation.verdict]} · {escape(annotation.asset)} · {escape(annotation.annotator)}</p>
<p><a class="button" href="{escape(back)}">Back to the machines</a></p></div>"""
    return document("Saved", "Thank you", body)


_GIVEN: Final = ("annotation_id", "asset", "event_id", "start", "end", "annotator")


def read_form(fields: Mapping[str, str], now: datetime) -> Annotation:
    """What was sent, as the message it becomes.

    Raises:
        ValueError: with what is missing, in words for the person who fills it in.
    """
    if not fields.get("verdict"):
        raise ValueError("Please say what you found: a fault, a false alarm, or not sure.")
    if fields["verdict"] == Verdict.FAULT and not fields.get("fault"):
        raise ValueError("Please say which fault it is. There is also: something else.")
    is_fault = fields["verdict"] == Verdict.FAULT
    given: dict[str, Any] = {
        **{
            name: fields.get(name) or None
            for name in ("annotation_id", "asset", "event_id", "start", "end", "annotator")
        },
        "trace_id": fields.get("trace_id") or new_trace_id(),
        "made_at": now,
        "verdict": fields["verdict"],
        "fault": (fields.get("fault") or None) if is_fault else None,
        "severity": (fields.get("severity") or None) if is_fault else None,
        "note": fields.get("note", "").replace("\r\n", "\n"),
    }
    try:
        return Annotation.model_validate(given)
    except ValidationError as exc:
        what = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors())
        raise ValueError(f"This can not be saved as it is: {what}") from exc


def cross_site(headers: Mapping[str, str]) -> bool:
    """True for a request that another site's page makes in this one's name."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is not None and origin.split("://", 1)[-1] != headers.get("host")


def _tiles(
    name: str,
    choices: Mapping[Verdict, str] | Mapping[FaultKind, str] | Mapping[Severity, str],
    said: Mapping[str, str],
) -> str:
    return "".join(
        f'<label><input type="radio" name="{name}" value="{value.value}"'
        f"{' checked' if said.get(name) == value.value else ''}>{escape(text)}</label>"
        for value, text in choices.items()
    )
