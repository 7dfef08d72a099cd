"""Recorded files: their signals, rate and stretch of time."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from edge_agent.probe.offer import Found, Offer
from edge_agent.sensors.csv import CsvReplay, CsvSource


def probe(pattern: Path, recording: dict[str, Any], asset: str = "machine") -> Offer:
    """Of the first file that the pattern names. `recording`: what is known of it, as in [asset.csv.recording].

    Raises:
        SourceFailed: there is no such file, or it can not be read; says what to do.
    """
    path = pattern.absolute()
    replay = CsvReplay(CsvSource.model_validate({"path": path, "recording": recording}))
    whole = replay.recording(replay.paths[0])
    rows = []
    for signal, values in zip(whole.signals, whole.values, strict=True):
        there = values[np.isfinite(values)].astype(np.float64)
        least, most = (float(there.min()), float(there.max())) if there.size else (None, None)
        share = 1 - there.size / max(values.size, 1)
        rows.append(
            {"signal": signal.name, "unit": signal.unit, "least": least, "most": most, "missing": f"{share:.1%}"}
        )
    stamps = whole.times[np.isfinite(whole.times)]
    begin, end = (datetime.fromtimestamp(float(t), UTC).isoformat(" ", "seconds") for t in (stamps.min(), stamps.max()))
    notes = [
        f"{len(replay.paths)} files; {replay.paths[0].name}: {whole.times.size} rows at {whole.rate_hz:.6g} Hz,"
        f" {begin} to {end}"
    ]
    if whole.label is not None:
        notes.append(
            f"label: {np.count_nonzero(whole.label > 0)} rows of a fault, {np.count_nonzero(whole.label == 0)} normal"
        )
    table: dict[str, Any] = {"path": path, "speed": 1.0}
    if recording:
        table["recording"] = recording
    return Offer(("signal", "unit", "least", "most", "missing"), rows, [Found(asset, "csv", table)], notes)
