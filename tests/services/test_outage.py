"""An outage of a week at four times what finds room, scaled to seconds, then a link that comes and goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.contract.base import Stream
from simulators.embedded.broker import Broker
from tests.faults.figures import Measured
from tests.outage import OVERFILL, outage
from tests.unit.test_outbox import evicted


@pytest.mark.parametrize(
    ("telemetry", "flaps", "live", "bar_s"),  # the short form runs beside other tests
    [(400, 1, 30, 10.0), pytest.param(20_000, 20, 1000, 2.0, marks=pytest.mark.slow)],
)
@pytest.mark.timeout(600)
def test_a_long_outage_at_four_times_its_room_and_a_flapping_link(
    broker: Broker, tmp_path: Path, measured: Measured, telemetry: int, flaps: int, live: int, bar_s: float
) -> None:
    result = outage(tmp_path, broker.port, telemetry, flaps, live)
    assert result.missing == {}
    for stream in (Stream.ALARM, Stream.ANNOTATION, Stream.HEALTH):
        assert not evicted(result.counts[stream])
        assert result.stored[stream] == result.counts[stream].produced
    gone = evicted(result.counts[Stream.TELEMETRY])
    assert set(result.counts[Stream.TELEMETRY].evicted) == {"room"}
    assert result.counts[Stream.TELEMETRY].produced == OVERFILL * telemetry
    assert result.stored[Stream.TELEMETRY] + len(gone) == OVERFILL * telemetry
    assert len(result.live_s) > live / 2
    assert result.p99_s() <= bar_s
    measured(
        "C2",
        f"{OVERFILL} times its room, then {flaps} cuts of the link",
        "no alarm, annotation or health record lost; live alarms p99 <= 2 s",
        f"{result.stored[Stream.TELEMETRY]} stored + {len(gone)} evicted = {OVERFILL * telemetry} of telemetry;"
        f" live alarms p99 {result.p99_s():.1f} s",
    )
