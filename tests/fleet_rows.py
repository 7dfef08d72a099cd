"""Rows as a small fleet would have sent them: features made up, verdicts known."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

import numpy as np

from fleet_server.learning.dataset import Dataset, Row, assemble
from models.contract.features import FEATURE_SET, NAMES, vector_names
from models.contract.labels import NORMAL
from models.contract.signals import Signal, WindowSpec

SIGNALS = (Signal(name="vib", unit="m/s2"), Signal(name="current", unit="A"))
WINDOW = WindowSpec(rate_hz=1024, n_samples=256, hop=256)
NAMES_OF_ALL = vector_names(signal.name for signal in SIGNALS)
BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
SHIFT = {NORMAL: (), "bearing": (3, 7, 8), "imbalance": (1, 2, 12), "load": (22, 24, 30)}  # features that move


def vector(rng: np.random.Generator, kind: str = NORMAL, size: float = 9.0) -> np.ndarray:
    """Independent features around 5 with a spread of 1; those of `kind` are moved up."""
    values = rng.normal(5, 1, size=len(NAMES_OF_ALL))
    values[list(SHIFT[kind])] += size
    return values


def rows(n_assets: int = 5, normal: int = 60, events: int = 4, per_event: int = 5, seed: int = 1) -> list[Row]:
    """Every asset has seen normal windows, false alarms under load, and both faults. The model that ran then alarmed on
    all of load and faults alike."""
    rng = np.random.default_rng(seed)
    made = []
    for a in range(n_assets):
        asset = f"pump{a}"
        made += [
            _row(rng, asset, f"{asset}/{i // 10}", f"n{a}-{i}", float(i), NORMAL, NORMAL, 0.1) for i in range(normal)
        ]
        for e in range(events):
            kind = ("bearing", "load", "imbalance", "load")[e % 4]
            for i in range(per_event):
                window_class = NORMAL if kind == "load" else kind
                trace, when = f"e{a}-{e}-{i}", float(1000 + 100 * e + i)
                made.append(_row(rng, asset, f"event{a}-{e}", trace, when, window_class, kind, 0.9))
    return made


def _row(
    rng: np.random.Generator,
    asset: str,
    block: str,
    trace: str,
    when: float,
    window_class: str,
    kind: str,
    score: float,
) -> Row:
    event = block.startswith("event")
    return Row(
        trace=trace,
        asset=asset,
        block=block,
        time=when,
        window_class=window_class,
        weight=0.8 if event else 1.0,
        vector=tuple(vector(rng, kind)),
        provenance="explicit" if event else "reference",
        label=block if event else "",
        score=score,
        version=1,
    )


def dataset(**changes: Any) -> Dataset:
    return assemble(rows(**changes), NAMES_OF_ALL, WINDOW, SIGNALS)


def fill(
    conn: Any, n_assets: int = 5, references: int = 60, events: int = 4, per_event: int = 5, seed: int = 1
) -> None:
    """The same fleet as rows of the database: devices with heartbeats, samples, events, accepted labels."""
    rng = np.random.default_rng(seed)
    for a in range(n_assets):
        device, asset = f"plant1.gw{a}", f"pump{a}"
        health = {
            "window": WINDOW.model_dump(),
            "signals": [signal.model_dump() for signal in SIGNALS],
        }
        conn.execute(
            "INSERT INTO device (device_id, first_seen, last_seen, heartbeat) VALUES (%s, %s, %s, %s)",
            (device, BEGIN, datetime.now(UTC), json.dumps({"assets": {asset: health}})),
        )
        for i in range(references):
            _sample(conn, rng, device, asset, BEGIN + timedelta(seconds=10 * i), "reference", None, NORMAL, 0.1)
        for e in range(events):
            kind = ("bearing", "load", "imbalance", "load")[e % 4]
            event_id, begin = uuid5(UUID(int=0), f"{asset} {e}"), BEGIN + timedelta(hours=1 + e)
            _event(conn, event_id, device, asset, begin, begin + timedelta(seconds=per_event))
            for i in range(per_event):
                _sample(conn, rng, device, asset, begin + timedelta(seconds=i), "alarm", event_id, kind, 0.9)
            label(conn, event_id, asset, begin, begin + timedelta(seconds=per_event), kind)


def label(conn: Any, event_id: UUID, asset: str, begin: datetime, end: datetime, kind: str) -> None:
    verdict, fault = ("false_alarm", None) if kind == "load" else ("fault", kind)
    conn.execute(
        """
        INSERT INTO label (label_id, subject_id, event_id, trace_id, asset_id, start_at, end_at, verdict, fault, weight,
                           provenance, annotations, status, reason, decided_at)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, 0.8, 'explicit', '{}', 'accepted', '', %s)
        """,
        (uuid5(event_id, "label"), event_id, event_id, event_id, asset, begin, end, verdict, fault, datetime.now(UTC)),
    )


def _event(conn: Any, event_id: UUID, device: str, asset: str, begin: datetime, end: datetime) -> None:
    conn.execute(
        """
        INSERT INTO event (event_id, trace_id, device_id, asset_id, opened_at, raised_at, updated_at, cleared_at, score,
                           threshold, model_name, model_version, model_sha256, body)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, 0.9, 0.5, 'baseline', 1, '', '{}')
        """,
        (event_id, event_id, device, asset, begin, begin, end, end + timedelta(seconds=1)),
    )


def _sample(
    conn: Any,
    rng: np.random.Generator,
    device: str,
    asset: str,
    end: datetime,
    reason: str,
    event_id: UUID | None,
    kind: str,
    score: float,
) -> None:
    trace = uuid5(UUID(int=1), f"{asset} {end} {reason}")
    features = dict(zip(NAMES_OF_ALL, vector(rng, kind).tolist(), strict=True))
    assert len(features) == len(SIGNALS) * len(NAMES)
    conn.execute(
        """
        INSERT INTO sample (trace_id, asset_id, device_id, window_start, window_end, reason, probability, event_id,
                            score, model_version, feature_set, features)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, 1, %s, %s)
        """,
        (
            trace,
            asset,
            device,
            end - timedelta(seconds=0.25),
            end,
            reason,
            0.05 if reason == "reference" else 1.0,
            event_id,
            score,
            FEATURE_SET,
            json.dumps(features),
        ),
    )
