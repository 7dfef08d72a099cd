"""Lines of text: the cells or the JSON of those that come in a while."""

from __future__ import annotations

import threading
from typing import Any, Final

from edge_agent.errors import SourceFailed
from edge_agent.probe.listening import leaves, looks_like_a_time, looks_like_a_value, round_rate
from edge_agent.probe.offer import Found, Offer, names_for
from edge_agent.sensors.base import LineLost
from edge_agent.sensors.lines import Lines, LinesSource
from edge_agent.sensors.mapping import path_of, steps
from models.contract.codec import Unreadable, parse_json
from models.recordings import BadRecording, RecordingOptions, look_at

MOST: Final = 1000  # lines


class Hearing(Lines):
    """Keeps the lines, and stops when there are enough."""

    def __init__(self, settings: LinesSource) -> None:
        super().__init__(settings, "probe")
        self.lines: list[bytes] = []

    def put(self, item: Any) -> None:
        self.lines += item[1]
        if len(self.lines) >= MOST:
            self.stop()


def probe(table: dict[str, Any], seconds: float, asset: str = "machine") -> Offer:
    """`table`: where they come from, as in [asset.lines].

    Raises:
        SourceFailed: nobody there, or what came is neither delimited text nor JSON; says what to do.
    """
    hearing = Hearing(LinesSource.model_validate(table | {"signals": [{"name": "probe"}]}))
    timer = threading.Timer(seconds, hearing.stop)
    timer.start()
    try:
        hearing.session()
    except (LineLost, OSError) as exc:
        raise SourceFailed(str(exc)) from exc
    finally:
        timer.cancel()
    if not hearing.lines:
        raise SourceFailed(f"no line came in {seconds:g} s")
    written = table | {"rate_hz": round_rate(len(hearing.lines) / seconds)}
    rows, more = _json(hearing.lines) or _cells(hearing.lines)
    notes = [f"{len(hearing.lines)} lines; rate_hz is theirs since we listened: correct it if the machine's is another"]
    found = [Found(asset, "lines", written | more)] if more["signals"] else []
    return Offer(("name", "unit", "value", "is"), rows, found, notes)


def _json(lines: list[bytes]) -> tuple[list[dict[str, Any]], dict[str, Any]] | None:
    """None: the last whole line is no JSON object."""
    try:
        body = parse_json(lines[-2] if len(lines) > 1 else lines[-1])
    except Unreadable:
        return None
    if not isinstance(body, dict):
        return None
    rows: list[dict[str, Any]] = []
    found: dict[str, Any] = {"format": "json"}
    paths: list[str] = []
    for way, value in leaves(body, ()):
        path, what = path_of(way), None
        if looks_like_a_time(path, value):
            found.setdefault("time", path)
            what = "time"
        elif looks_like_a_value(value):
            paths.append(path)
            what = "signal"
        rows.append({"name": path, "value": value, "is": what})
    names = names_for(".".join(map(str, steps(path))) for path in paths)
    found["signals"] = [{"name": name, "value": path} for name, path in zip(names, paths, strict=True)]
    return rows, found


def _cells(lines: list[bytes]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """As a file of them would be read; the first one may have begun before we listened."""
    text = [line.decode(errors="replace").rstrip("\r") for line in lines]
    try:
        form = look_at(text, RecordingOptions(rate_hz=1.0))
        first = form.header
    except BadRecording:
        try:
            form, first = look_at(text[1:], RecordingOptions(rate_hz=1.0)), True
        except BadRecording as exc:
            raise SourceFailed(f"neither JSON nor delimited text: {exc}") from exc
    names = names_for(
        next((s.name for at, s in form.signals if at == i), "time" if i == form.time else f"c{i + 1}")
        for i in range(form.n_columns)
    )
    units = {at: signal.unit for at, signal in form.signals}
    newest = text[-1].split(form.delimiter)
    rows = [
        {
            "name": name,
            "unit": units.get(i),
            "value": newest[i] if i < len(newest) else None,
            "is": "time" if i == form.time else "signal" if i in units else None,
        }
        for i, name in enumerate(names)
    ]
    found: dict[str, Any] = {"columns": names, "delimiter": form.delimiter, "skip_first": first}
    if form.time is not None:
        found["time"] = names[form.time]
    found["signals"] = [{"name": names[at], "unit": unit} for at, unit in units.items()]
    return rows, found
