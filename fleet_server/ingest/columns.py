"""The packed prediction log to rows. Everything is checked first: one bad number would break the COPY of a whole
batch."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import numpy as np
import numpy.typing as npt

from fleet_server.store.telemetry import Prediction
from models.contract.codec import Unreadable
from models.contract.messages import Column, Flag, ScoredWindows

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST_US: Final = 4_102_444_800_000_000  # the year 2100
_DTYPES: Final = {"f4": "<f4", "f8": "<f8", "i8": "<i8", "u1": "u1", "uuid": "V16"}
NO_CLASS: Final = 255
AHEAD: Final = timedelta(minutes=5)
FIRST_YEAR: Final = 2000  # a device that has never heard of the time starts in 1970


def predictions(device_id: str, body: ScoredWindows, received_at: datetime | None = None) -> list[Prediction]:
    """One row a window; one whose time cannot be right, as seen from `received_at`, is flagged.

    Raises:
        Unreadable: a column of another type or length, or a number that cannot be.
    """
    start = _array(body, "start_us", "i8")
    end = _array(body, "end_us", "i8")
    score = _array(body, "score", "f4")
    alarm = _array(body, "alarm", "u1")
    fault = _array(body, "fault_class", "u1")
    latency = _array(body, "latency_us", "f4")
    trace = _array(body, "trace", "uuid")
    flags = _array(body, "flags", "u1") if body.flags else np.zeros(body.n, np.uint8)
    mode = _array(body, "mode", "u1") if body.mode else np.full(body.n, NO_CLASS, np.uint8)
    if not ((start >= 0) & (start <= end) & (end < _LATEST_US)).all():
        raise Unreadable("start_us, end_us: a window ends before it starts, or lies outside of 1970 to 2100")
    if not ((score >= 0) & (score <= 1)).all():  # false for a nan, too
        raise Unreadable("score: not between 0 and 1")
    if not (np.isfinite(latency) & (latency >= 0)).all():
        raise Unreadable("latency_us: not a duration")
    if not (alarm <= 1).all():
        raise Unreadable("alarm: neither 0 nor 1")
    if not ((fault == NO_CLASS) | (fault < len(body.classes))).all():
        raise Unreadable(f"fault_class: no such class among {len(body.classes)}")
    if not ((mode == NO_CLASS) | (mode < len(body.modes))).all():
        raise Unreadable(f"mode: no such mode among {len(body.modes)}")
    early, late = datetime(FIRST_YEAR, 1, 1, tzinfo=UTC), (received_at or datetime.now(UTC)) + AHEAD
    wrong = (end < _micros(early)) | (end > _micros(late))
    flags = np.where(wrong, flags | Flag.CLOCK, flags)
    names: dict[int, str | None] = {**dict(enumerate(body.classes)), NO_CLASS: None}
    modes: dict[int, str | None] = {**dict(enumerate(body.modes)), NO_CLASS: None}
    sha256 = bytes.fromhex(body.model.sha256)
    raw = trace.tobytes()
    return [
        Prediction(
            window_end=_EPOCH + timedelta(microseconds=e),
            asset_id=body.asset,
            trace_id=UUID(bytes=raw[16 * i : 16 * i + 16]),
            device_id=device_id,
            window_start=_EPOCH + timedelta(microseconds=s),
            model_version=body.model.version,
            model_sha256=sha256,
            score=value,
            alarm=bool(a),
            fault_class=names[f],
            latency_us=took,
            flags=flag,
            mode=modes[m],
        )
        for i, (s, e, value, a, f, took, flag, m) in enumerate(
            zip(
                start.tolist(),
                end.tolist(),
                score.tolist(),
                alarm.tolist(),
                fault.tolist(),
                latency.tolist(),
                flags.tolist(),
                mode.tolist(),
                strict=True,
            )
        )
    ]


def _micros(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)


def _array(body: ScoredWindows, name: str, dtype: str) -> npt.NDArray[Any]:
    column: Column = getattr(body, name)
    if column.dtype != dtype:
        raise Unreadable(f"{name}: {column.dtype} where {dtype} is meant")
    try:
        array = np.frombuffer(column.raw(), dtype=_DTYPES[dtype])
    except ValueError as exc:  # also: not base64
        raise Unreadable(f"{name}: {exc}"[:200]) from exc
    if array.size != body.n:
        raise Unreadable(f"{name}: {array.size} values where n is {body.n}")
    return array
