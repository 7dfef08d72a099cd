"""Whether a device is there: its broker's word, its own, and silence."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from fleet_server.store import devices
from fleet_server.store.pool import connect
from fleet_server.web.fleet import state
from models.contract import topics
from models.contract.codec import dump
from models.contract.messages import Session
from simulators.embedded.broker import Broker
from tests.builders import Fleet, an_event
from tests.services.conftest import Client
from tests.services.station import Station, now, value
from tests.services.test_uplink import running
from tests.support import eventually


@pytest.fixture
def station(plain_database: str, own_broker: Broker) -> Iterator[Station]:
    station = Station(plain_database, own_broker).start()
    yield station
    station.stop()


def shown(station: Station) -> str:
    with connect(station.dsn) as conn:
        (row,) = devices.listing(conn)
    return f"{state(row, now())} {row.offline_reason or ''}".strip()


def test_a_dead_device_shows_at_once_and_one_that_is_back(station: Station, own_broker: Broker, tmp_path: Path) -> None:
    fleet = Fleet("plant1.gw1")
    fleet.server = station.key
    with running(tmp_path, own_broker.port, fleet) as device:
        device.outbox.put([an_event()])
        eventually(lambda: value(station.dsn, "SELECT count(*) FROM event") == 1)
        assert shown(station) == "new"  # no heartbeat yet
        connection = device.uplink._link.client_socket()
        assert connection
        connection.shutdown(socket.SHUT_RDWR)
        eventually(lambda: shown(station) == "offline cut off")
        eventually(lambda: shown(station) == "new", timeout=20)  # it came back by itself
    eventually(lambda: shown(station) == "offline stopped")


def test_nobody_declares_another_device_dead(station: Station, own_broker: Broker) -> None:
    client = Client(own_broker)
    try:
        for device in ("plant1.gw1", "plant1.gw2"):
            client.publish(topics.session(device), dump(Session(device=device, state="birth")))
        foreign = dump(Session(device="plant1.gw1", state="death"))
        for payload in (foreign, b"{", b"\xff"):
            client.publish(topics.session("plant1.gw2"), payload)
        own = Session(device="plant1.gw2", state="death", reason="stopped")
        client.publish(topics.session("plant1.gw2"), dump(own))
        eventually(lambda: value(station.dsn, "SELECT count(*) FROM device WHERE offline_at IS NOT NULL") >= 1)
        with connect(station.dsn) as conn:
            rows = {row.device_id: row.offline_reason for row in devices.listing(conn)}
        assert rows == {"plant1.gw1": None, "plant1.gw2": "stopped"}
    finally:
        client.close()


def test_silent_means_three_heartbeats_missing(station: Station) -> None:
    with connect(station.dsn) as conn:
        devices.touch(conn, ["plant1.gw1"], now())
        (row,) = devices.listing(conn)
    slow = replace(row, heartbeat={"every_s": 600.0})
    assert state(row, now() + timedelta(minutes=2)) == "silent"
    assert state(slow, now() + timedelta(minutes=29)) == "ok"
    assert state(slow, now() + timedelta(minutes=31)) == "silent"
