"""The real agent with a dead clock and with one that jumps: what it tells stays true and in order."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from models.contract.base import Stream
from simulators.embedded.broker import Broker, Mosquitto
from tests.builders import Fleet
from tests.faults import ledger
from tests.faults.clock import Clock
from tests.faults.figures import Measured
from tests.faults.gateway import Gateway
from tests.receiver import Receiver
from tests.support import eventually
from tests.tls import Ca, TlsMosquitto


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


class Device:
    """An agent with a clock of its own, and what the server's side stored of it."""

    def __init__(self, home: Path, hub: Broker, stack: ExitStack, port: int | None = None, **settings: Any) -> None:
        self.clock, fleet = Clock(home), Fleet(f"test.{uuid.uuid4().hex[:12]}")
        settings = {"speed": 200, "heartbeat_s": 0.5, "env": self.clock.env} | settings
        self.gateway = Gateway(home, fleet, port or hub.port, **settings)
        stack.callback(self.gateway.kill)
        self.receiver = stack.enter_context(Receiver(hub.port, home / "received.db", fleet))

    def bodies(self, stream: Stream) -> list[dict[str, Any]]:
        return [json.loads(body) for body in self.receiver.bodies(stream)]

    def beats(self) -> list[dict[str, Any]]:
        return [body for body in self.bodies(Stream.HEALTH) if body["kind"] == "heartbeat"]


@pytest.mark.skipif(Mosquitto.binary() is None, reason="mosquitto is not installed")
def test_with_a_dead_clock_the_agent_connects_over_tls_and_says_what_its_times_are_worth(
    tmp_path: Path, stack: ExitStack, measured: Measured
) -> None:
    ca = Ca(tmp_path / "ca")
    broker = stack.enter_context(TlsMosquitto(tmp_path / "broker", ca, ca.certificate("broker")))
    starts = {"1970-01-02": "floor", "2020-01-02": "floor", "2040-01-02": "unsynced"}
    devices = {}
    for start in starts:
        devices[start] = device = Device(tmp_path / start, broker, stack, broker.tls_port, broker=f'ca = "{ca.path}"')
        device.clock.at(f"{start} 00:00:00")
        device.gateway.start()
    for start, quality in starts.items():
        device = devices[start]

        def told(device: Device = device) -> dict[str, Any]:
            beats = [beat for beat in device.beats() if "tls_without_dates" in beat["counters"]]
            return beats[-1] if beats else {}

        beat = eventually(told, timeout=60, message=device.gateway.log[-2000:])
        assert beat["counters"]["tls_without_dates"] == 1
        assert beat["time_quality"] == quality
        assert datetime.fromisoformat(beat["made_at"]).year == (2040 if "2040" in start else 2026)
        alarms = eventually(lambda device=device: device.bodies(Stream.ALARM), timeout=60)
        assert {alarm["time_quality"] for alarm in alarms} == {quality}
        ledger.assert_once_and_in_order(device.receiver)
    measured("E1", "start in 1970, 2020, 2040", "connects over TLS, dates overlooked once", "3 of 3, once each")


def test_while_the_clock_jumps_windows_order_and_ids_hold(
    tmp_path: Path, broker: Broker, stack: ExitStack, measured: Measured
) -> None:
    device = Device(tmp_path / "device", broker, stack)
    device.gateway.start()
    eventually(lambda: device.bodies(Stream.TELEMETRY), timeout=60, message=device.gateway.log[-2000:])
    for offset, counted in ((-3600, (0, 1)), (86400, (1, 1)), (86399.95, (1, 2))):
        device.clock.offset(offset)

        def jumped(counted: tuple[int, int] = counted) -> bool:
            clock = device.beats()[-1]["clock"]
            assert (clock["jumps_forward"], clock["jumps_back"]) == counted, clock
            return True

        eventually(jumped, timeout=30)
    beats = device.beats()
    uptimes = [beat["uptime_s"] for beat in beats]
    assert uptimes == sorted(uptimes)
    assert max(b - a for a, b in pairwise(uptimes)) < 10
    made = [beat["made_at"] for beat in beats]
    assert made == sorted(made)  # a jump back is bridged
    traces = [beat["trace_id"] for beat in beats]
    assert traces == sorted(set(traces))
    assert not [beat["assets"]["pump1"]["dropped"] for beat in beats if beat["assets"]["pump1"]["dropped"]]
    assert not re.search("Traceback|ERROR", device.gateway.log)
    ledger.assert_once_and_in_order(device.receiver)
    measured("E2", "-1 h, +1 day, -50 ms while running", "counted; no window lost, ids rise", "1 forward, 2 back")


def jumps(beat: dict[str, Any]) -> int:
    return int(beat["clock"]["jumps_forward"] + beat["clock"]["jumps_back"])


def test_a_clock_of_a_wrong_pace_drifts_and_everything_else_goes_by_true_time(
    tmp_path: Path, broker: Broker, stack: ExitStack, measured: Measured
) -> None:
    """Ten times as fast, and half as fast: heartbeats come and windows are scored at the machine's pace, and what the
    clock gains is told as drift, not as a jump at every look."""
    devices = {pace: Device(tmp_path / f"x{pace:g}", broker, stack) for pace in (10.0, 0.5)}
    for pace, device in devices.items():
        device.clock.speed(pace)
        device.gateway.start()
    told = {}
    for pace, device in devices.items():

        def settled(device: Device = device, pace: float = pace) -> dict[str, Any]:
            beat = device.beats()[-1]
            assert beat["clock"]["drift_ppm"] == pytest.approx((pace - 1) * 1e6, rel=0.1)
            return beat

        eventually(lambda device=device: device.beats(), timeout=60, message=device.gateway.log[-2000:])
        told[pace] = beat = eventually(settled, timeout=60)
        assert jumps(beat) <= 5  # of nine looks the middle one counts as the clock's pace
        first, since = device.beats()[0], time.monotonic()
        enough = len(device.beats()) + 6
        eventually(lambda device=device, enough=enough: len(device.beats()) >= enough, timeout=60)
        last, took = device.beats()[-1], time.monotonic() - since
        lasted = last["uptime_s"] - first["uptime_s"]
        windows = last["assets"]["pump1"]["windows"] - first["assets"]["pump1"]["windows"]
        assert last["uptime_s"] - beat["uptime_s"] == pytest.approx(took, abs=max(2.0, took / 2))
        assert windows / lasted == pytest.approx(40, rel=0.5)  # 200 samples a second, five a window
        assert jumps(last) == jumps(beat)
        assert not last["assets"]["pump1"]["dropped"]
        ledger.assert_once_and_in_order(device.receiver)
    drift = ", ".join(f"x{pace:g}: {beat['clock']['drift_ppm'] / 1e6:+.2f} s/s" for pace, beat in told.items())
    measured("E3", "clock ten times and half as fast", "rates by true time; drift reported", drift)
