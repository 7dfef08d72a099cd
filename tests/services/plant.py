"""A small plant as phones see it: a running server, six machines in two halls, some of them in alarm."""

from __future__ import annotations

import math
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from models.contract.events import AlarmEvent, Driver, Plot
from models.contract.health import AssetHealth
from models.contract.signals import Signal
from simulators.embedded.broker import Broker, embedded_broker
from simulators.embedded.postgres import EmbeddedPostgres
from tests import builders, support
from tests.services.conftest import Client
from tests.services.station import Device, ServerProcess
from tests.services.test_ingest import a_beat
from tests.support import eventually

DEVICE: Final = "plant1.gw1"
_MACHINES: Final = {  # name: kind, hall, state
    "pump-12": ("pump", "North", "scoring"),
    "pump-14": ("pump", "North", "scoring"),
    "fan-3": ("fan", "North", "learning"),
    "compressor-1": ("compressor", "South", "scoring"),
    "conveyor-7": ("conveyor", "South", "silent"),
    "mixer-2": ("mixer", "South", "scoring"),
}


def alarm(asset: str, minutes: float, score: float, fault: str, seed: int = 1) -> AlarmEvent:
    """One that began so many minutes ago, with a plot to look at."""
    began = datetime.now(UTC) - timedelta(minutes=minutes)
    dice = random.Random(seed)
    usual = [round(math.sin(i * 0.9) * 0.5 + dice.gauss(0, 0.12), 3) for i in range(120)]
    now = [round(v * 1.6 + (2.4 * dice.choice((-1, 1)) if i % 17 < 2 else 0), 3) for i, v in enumerate(usual)]
    return builders.an_event(
        asset=asset,
        made_at=began,
        opened_at=began,
        window_start=began,
        window_end=began + timedelta(minutes=minutes * 0.7),
        score=score,
        fault_class=fault,
        drivers=(
            Driver(feature="vib.kurtosis", value=9.3, usual=3.1, deviation=8.0),
            Driver(feature="vib.rms", value=1.25, usual=0.5, deviation=6.0),
        ),
        plot=Plot(signal="vib", unit="m/s2", seconds=0.25, values=tuple(now), normal=tuple(usual)),
    )


def health(**changes: Any) -> dict[str, AssetHealth]:
    """What the device says of each machine; `changes` by name, with _ for -."""
    signals = (Signal(name="vib", unit="m/s2"),)
    return {
        name: AssetHealth(
            kind=kind, hall=hall, state=state, signals=signals, alarm=bool(changes.get(name.replace("-", "_")))
        )
        for name, (kind, hall, state) in _MACHINES.items()
    }


def settle(server: ServerProcess, client: Client, *alarms: AlarmEvent) -> Device:
    """The device has told the server of its machines and of these alarms."""
    device = Device(DEVICE, client, server.key)
    in_alarm = {each.asset.replace("-", "_"): True for each in alarms}
    for body in (*alarms, a_beat(outbox={}, assets=health(**in_alarm))):
        device.send(body)
    eventually(lambda: not device.unconfirmed)
    return device


@contextmanager
def running(home: Path, postgres_dsn: str, broker: Broker, *alarms: AlarmEvent) -> Iterator[ServerProcess]:
    """A server as a process on a database of its own, that has heard of all this."""
    with support.fresh_database(postgres_dsn) as dsn:
        server, client = ServerProcess(home, dsn, broker.port), Client(broker)
        try:
            server.start()
            settle(server, client, *alarms)
            yield server
        finally:
            client.close()
            server.kill()


@contextmanager
def standing_alone(*alarms: AlarmEvent) -> Iterator[tuple[ServerProcess, Path]]:
    """The same without pytest's fixtures, and a folder that goes with it."""
    with (
        support.reachable_folder() as home,
        EmbeddedPostgres(home / "postgres", settings={"fsync": "off"}) as postgres,
        tempfile.TemporaryDirectory() as folder,
        embedded_broker(Path(folder) / "broker") as broker,
        running(Path(folder) / "server", postgres.dsn, broker, *alarms) as server,
    ):
        yield server, Path(folder)
