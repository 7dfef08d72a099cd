"""What a device has a receipt for is in the database, once; what has none is sent again. Whatever happens in
between."""

from __future__ import annotations

import itertools
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from fleet_server.config import Broker as Settings
from fleet_server.ingest import batch as batches
from fleet_server.ingest import handlers
from fleet_server.ingest.batch import store, store_one_by_one
from fleet_server.ingest.mailbox import RECEIVE_MAXIMUM, Arrived, Mailbox
from fleet_server.ingest.reading import Read, read
from fleet_server.ingest.subscriber import MAX_PACKET, Subscriber
from fleet_server.store import quarantine
from fleet_server.store.migrate import migrate
from fleet_server.store.pool import Trouble, connect, trouble
from models.bundle.signing import NotTrusted, PublicKeys, SigningKey
from models.contract import topics
from models.contract.base import Stream
from models.contract.codec import dump, load, wrap
from models.contract.events import AlarmEvent, Phase, SensorFault
from models.contract.health import Heartbeat
from models.contract.messages import STREAM_OF, Column, Fetch, Flag, Receipt, ReceiptNote
from simulators.embedded.broker import Broker
from simulators.embedded.postgres import EmbeddedPostgres
from tests import builders, support
from tests.faults.figures import Measured, Scale
from tests.services.conftest import Client
from tests.services.station import Device, ServerProcess, Station, now, query, value
from tests.support import eventually
from tests.unit.test_codec import MALFORMED

Connect = Callable[..., Client]
TABLES = ("prediction", "event", "sample", "annotation", "label", "sensor_fault", "heartbeat", "ledger", "rollout_step")


@pytest.fixture
def station(database: str, own_broker: Broker) -> Iterator[Station]:
    """On both kinds of database."""
    with_stop = Station(database, own_broker).start()
    yield with_stop
    with_stop.stop()


@pytest.fixture
def plain_station(plain_database: str, own_broker: Broker) -> Iterator[Station]:
    with_stop = Station(plain_database, own_broker).start()
    yield with_stop
    with_stop.stop()


@pytest.fixture
def schema(plain_database: str) -> str:
    with connect(plain_database) as conn:
        migrate(conn)
    return plain_database


def counts(dsn: str) -> dict[str, int]:
    return {table: value(dsn, f"SELECT count(*) FROM {table}") for table in TABLES}


def a_beat(**changes: Any) -> Heartbeat:
    fields: dict[str, Any] = {
        "trace_id": uuid.uuid4(),
        "made_at": builders.NOW,
        "agent_version": "0.1.0",
        "boot": "b" * 32,
        "uptime_s": 1.0,
        "running": builders.USUAL,
        "step": "active",
        "outbox": {},
        "assets": {"pump1": {}},
    }
    return Heartbeat.model_validate(fields | changes)


def a_day(device: Device) -> None:
    """Some of everything."""
    event = uuid.uuid4()
    for i, phase in enumerate((Phase.RAISED, Phase.UPDATED, Phase.UPDATED, Phase.CLEARED)):
        end = builders.NOW + timedelta(seconds=1 + i)
        device.make(builders.an_event(event_id=event, phase=phase, window_end=end, score=0.6 + 0.1 * (i % 3)))
    device.make(builders.an_annotation(event_id=event))
    fault = {"asset": "pump1", "fault": "stuck", "since": builders.NOW}
    device.make(SensorFault(trace_id=uuid.uuid4(), made_at=builders.NOW, **fault))
    for _ in range(20):
        device.make(builders.some_scores(5))
    device.make(builders.a_status())
    device.make(a_beat())


EXPECTED = {
    "prediction": 100,
    "event": 1,
    "sample": 4,
    "annotation": 1,
    "label": 1,
    "sensor_fault": 1,
    "heartbeat": 1,
    "ledger": 28,
    "rollout_step": 1,
}


def test_five_copies_in_any_order_are_stored_once_and_confirmed(
    station: Station, own_broker: Broker, connect: Connect
) -> None:
    device = Device("plant1.gw1", connect(own_broker), station.key)
    a_day(device)
    device.send_shuffled(times=5, seed=1)
    eventually(lambda: not device.unconfirmed, timeout=20)
    assert counts(station.dsn) == EXPECTED
    before = query(station.dsn, "SELECT * FROM event")
    a_replay = Device("plant1.gw1", connect(own_broker), station.key)
    a_replay.epoch = device.epoch  # last week's capture, played again
    a_day_again(a_replay, device)
    assert counts(station.dsn) == EXPECTED
    assert query(station.dsn, "SELECT * FROM event") == before


def a_day_again(replay: Device, device: Device) -> None:
    """The same numbers with other contents: whatever they say, they are known."""
    a_day(replay)
    replay.send_shuffled(times=1, seed=2)
    eventually(lambda: not replay.unconfirmed, timeout=20)


def test_a_receipt_is_signed_by_the_server_and_counts_without_gaps(
    plain_station: Station, own_broker: Broker, connect: Connect
) -> None:
    client = connect(own_broker)
    device = Device("plant1.gw1", client, plain_station.key)
    for _ in range(5):
        device.make(builders.an_event())
    device.send_again(lambda key: key[1] in (1, 2, 4))
    eventually(lambda: device.unconfirmed == [(Stream.ALARM, 3), (Stream.ALARM, 5)])
    assert device.receipts[-1].up_to == 2
    device.send_again(lambda key: key[1] == 3)
    eventually(lambda: device.read_receipts() or device.receipts[-1].up_to == 4)
    note = load(ReceiptNote, client.payloads()[-1])
    with pytest.raises(NotTrusted):
        PublicKeys([SigningKey.generate().public]).open(Receipt, note.receipt)


def test_phases_in_any_order_make_the_same_event(schema: str) -> None:
    event = uuid.uuid4()
    phases = [
        builders.an_event(
            event_id=event, phase=phase, window_end=builders.NOW + timedelta(seconds=s), score=score, fault_class=name
        )
        for phase, s, score, name in (
            (Phase.RAISED, 1, 0.6, "leak"),
            (Phase.UPDATED, 2, 0.9, "bearing"),
            (Phase.UPDATED, 3, 0.7, "leak"),
            (Phase.CLEARED, 4, 0.4, None),
        )
    ]
    rows = []
    for order in itertools.permutations(phases):
        with connect(schema) as conn:
            conn.execute("TRUNCATE event, ledger, sample")
            for seq, phase in enumerate(order, start=1):
                store(conn, [message(phase, seq)], now())
        # When the server heard of it first is another moment each time.
        rows.append(query(schema, "SELECT to_jsonb(event) - 'received_at' FROM event")[0])
    assert all(row == rows[0] for row in rows)
    ((trace, raised, cleared, score, fault),) = query(
        schema, "SELECT trace_id, raised_at, cleared_at, score, fault_class FROM event"
    )
    assert (trace, raised) == (phases[0].trace_id, builders.NOW + timedelta(seconds=1))
    assert (cleared, round(score, 3), fault) == (builders.NOW + timedelta(seconds=4), 0.9, "bearing")


def message(body: Any, seq: int = 1, device: str = builders.DEVICE, epoch: str = "0" * 32) -> Read:
    stream = STREAM_OF[type(body)]
    return read(topics.up(device, stream), wrap(device, epoch, stream, seq, dump(body)))


def test_malformed_messages_are_put_aside_with_a_reason_and_the_next_good_one_is_stored(
    station: Station, own_broker: Broker, connect: Connect
) -> None:
    client = connect(own_broker)
    device = Device("plant1.gw1", client, station.key)
    topic = topics.up("plant1.gw1", Stream.ALARM)
    sent = [payload for payload in MALFORMED.values() if len(payload) < MAX_PACKET - 1000]
    for payload in sent:
        client.publish(topic, payload)
    client.publish("pdm/v1/PLANT 1/up/alarm", b"{}")
    client.publish("pdm/v1/plant1.gw1/up/nonsense", b"{}")
    device.send(builders.an_event())
    eventually(lambda: not device.unconfirmed)
    assert value(station.dsn, "SELECT count(*) FROM quarantine") == len(sent) + 2
    assert value(station.dsn, "SELECT count(*) FROM quarantine WHERE reason = ''") == 0
    assert value(station.dsn, "SELECT count(*) FROM event") == 1
    # They are settled with the broker: a new connection does not bring them again.
    station.subscriber._client.reconnect()
    eventually(lambda: station.subscriber.connected)
    device.send(builders.an_event())
    eventually(lambda: not device.unconfirmed)
    assert value(station.dsn, "SELECT count(*) FROM quarantine") == len(sent) + 2


def test_an_unreadable_body_is_put_aside_once_and_confirmed(
    plain_station: Station, own_broker: Broker, connect: Connect
) -> None:
    device = Device("plant1.gw1", connect(own_broker), plain_station.key)
    device.make_raw(Stream.ALARM, b'{"kind":"a kind of next year"}')
    device.make_raw(Stream.ALARM, dump(builders.some_scores()))
    device.make(builders.an_event())
    device.send_shuffled(times=3, seed=1)
    eventually(lambda: not device.unconfirmed)
    dsn = plain_station.dsn
    assert query(dsn, "SELECT seq, quarantined FROM ledger ORDER BY seq") == [(1, True), (2, True), (3, False)]
    reasons = [row[0] for row in query(dsn, "SELECT reason FROM quarantine ORDER BY seq")]
    assert len(reasons) == 2
    assert "kind" in reasons[0]
    assert reasons[1] == "a scored_windows does not belong on stream alarm"


@pytest.mark.parametrize(
    "change",
    [
        {"score": Column.of("f4", b"\0\0\xc0\x7f" * 3)},  # nan
        {"score": Column.of("f4", b"\0\0\0\x40" * 3)},  # 2.0
        {"score": Column.of("f8", b"\0" * 24)},
        {"score": Column.of("f4", b"\0" * 8)},
        {"trace": Column(dtype="uuid", data="!!!")},
        {"end_us": Column.of("i8", (2**62).to_bytes(8, "little") * 3)},
        {"fault_class": Column.of("u1", b"\0" * 3)},
        {"latency_us": Column.of("f4", b"\0\0\x80\x7f" * 3)},  # infinity
        {"n": 4},
    ],
    ids=lambda change: next(iter(change)),
)
def test_columns_that_do_not_hold_what_they_say_break_no_batch(schema: str, change: dict[str, Any]) -> None:
    broken = builders.some_scores(3).model_copy(update=change)
    with connect(schema) as conn:
        store(
            conn, [message(builders.some_scores(2), 1), message(broken, 2), message(builders.some_scores(2), 3)], now()
        )
    assert value(schema, "SELECT count(*) FROM prediction") == 4
    assert query(schema, "SELECT seq FROM ledger WHERE quarantined") == [(2,)]


def test_nobody_uses_up_another_devices_numbers(plain_station: Station, own_broker: Broker, connect: Connect) -> None:
    victim = Device("plant1.gw1", connect(own_broker), plain_station.key)
    forged = wrap("plant1.gw1", victim.epoch, Stream.ALARM, 1, dump(builders.an_event(asset="forged")))
    client = connect(own_broker)
    client.publish(topics.up("plant1.gw2", Stream.ALARM), forged)
    eventually(lambda: value(plain_station.dsn, "SELECT count(*) FROM quarantine") == 1)
    victim.send(builders.an_event(asset="pump1"))
    eventually(lambda: not victim.unconfirmed)
    assert query(plain_station.dsn, "SELECT asset_id FROM event") == [("pump1",)]
    assert query(plain_station.dsn, "SELECT device_id, seq FROM quarantine") == [("plant1.gw2", None)]


def test_an_event_of_another_device_cannot_be_changed(schema: str) -> None:
    event = builders.an_event(score=0.5)
    with connect(schema) as conn:
        store(conn, [message(event)], now())
        store(conn, [message(event.model_copy(update={"score": 1.0}), device="plant1.gw2")], now())
    assert query(schema, "SELECT device_id, score FROM event") == [("plant1.gw1", 0.5)]
    assert "belongs to another device" in value(schema, "SELECT reason FROM quarantine")


def test_retained_messages_are_nobodys_news(plain_database: str, own_broker: Broker, connect: Connect) -> None:
    client = connect(own_broker)
    device = Device("plant1.gw1", client, SigningKey.generate())
    stale = wrap(device.name, device.epoch, Stream.ALARM, 9, dump(builders.an_event()))
    client.publish(topics.up("plant1.gw1", Stream.ALARM), stale, retain=True)
    station = Station(plain_database, own_broker, key=SigningKey.generate()).start()
    try:
        client.publish(topics.up("plant1.gw1", Stream.ALARM), b"after it")
        eventually(lambda: value(plain_database, "SELECT count(*) FROM quarantine") == 1)
        assert value(plain_database, "SELECT count(*) FROM event") == 0
        # Also where a broker hands them out all the same.
        station.worker.work([Arrived(0, 1, 1, True, topics.up("plant1.gw1", Stream.ALARM), stale)])
        assert value(plain_database, "SELECT count(*) FROM event") == 0
    finally:
        station.stop()


def test_what_is_too_large_reaches_nobody_and_stops_nothing(
    plain_station: Station, own_broker: Broker, connect: Connect
) -> None:
    big = connect(own_broker)
    big.paho.publish(topics.up("plant1.gw1", Stream.ALARM), b"x" * (MAX_PACKET + 1), qos=1)
    big.paho.publish(topics.up("plant1.gw1", Stream.ALARM), b"x" * 2**20, qos=1)
    device = Device("plant1.gw1", connect(own_broker), plain_station.key)
    device.send(builders.an_event())
    eventually(lambda: not device.unconfirmed)
    assert plain_station.subscriber.connected


def test_the_quarantine_keeps_to_its_budget_and_counts_what_went(schema: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rotate = quarantine.rotate
    monkeypatch.setattr(quarantine, "rotate", lambda conn: rotate(conn, max_rows=10, max_bytes=10**9))
    with connect(schema) as conn:
        for i in range(4):
            store(conn, [read("elsewhere", b"%d-%d" % (i, j)) for j in range(5)], now())
    kept = [bytes(row[0]) for row in query(schema, "SELECT payload FROM quarantine ORDER BY quarantine_id")]
    assert kept == [b"%d-%d" % (i, j) for i in (2, 3) for j in range(5)]
    assert value(schema, "SELECT n FROM counter WHERE name = 'quarantine_rotated'") == 10
    with connect(schema) as conn:
        assert rotate(conn, max_rows=100, max_bytes=7) == 8


def test_a_message_that_breaks_the_transaction_is_found_and_put_aside(
    plain_station: Station, own_broker: Broker, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = builders.an_event()
    harmless = handlers.alarm

    def alarm(batch: handlers.Batch, key: Any, body: AlarmEvent) -> None:
        harmless(batch, key, body)
        if body.trace_id == poison.trace_id:
            batch.conn.execute("SELECT 1 / 0")

    monkeypatch.setitem(handlers.HANDLERS, AlarmEvent, alarm)  # type: ignore[misc]
    device = Device("plant1.gw1", connect(own_broker), plain_station.key)
    for i in range(30):
        device.make(poison if i == 13 else builders.an_event())
    device.send_again()
    eventually(lambda: not device.unconfirmed, timeout=20)
    assert value(plain_station.dsn, "SELECT count(*) FROM event") == 29
    assert query(plain_station.dsn, "SELECT seq FROM ledger WHERE quarantined") == [(14,)]
    assert "division by zero" in value(plain_station.dsn, "SELECT reason FROM quarantine")
    assert plain_station.worker.alive


def test_a_fault_of_the_servers_own_is_no_fault_of_the_message(schema: str) -> None:
    with connect(schema) as conn:
        conn.execute("ALTER TABLE event RENAME TO gone")
    with connect(schema) as conn, pytest.raises(psycopg.Error) as failed:
        store_one_by_one(conn, [message(builders.an_event())], now())
    assert trouble(failed.value) is Trouble.AWAY
    assert value(schema, "SELECT count(*) FROM quarantine") == 0


@pytest.mark.timeout(300)
def test_while_the_database_is_away_nothing_is_confirmed_and_then_everything(
    own_broker: Broker, connect: Connect, scale: Scale, measured: Measured
) -> None:
    """Killed, and after a while another takes its place, as in a failover."""
    away_s = scale.times(0, 30)
    with support.reachable_folder() as home, EmbeddedPostgres(home / "postgres") as postgres:
        station = Station(postgres.dsn, own_broker).start()
        try:
            device = Device("plant1.gw1", connect(own_broker), station.key)
            device.send(builders.an_event())
            eventually(lambda: not device.unconfirmed)
            postgres.kill()
            for _ in range(RECEIVE_MAXIMUM + 200):  # more than may be on its way at once
                device.make(builders.an_event())
            device.send_again()
            n = len(device.receipts)
            eventually(lambda: len(station.mailbox._waiting) <= 2 * RECEIVE_MAXIMUM)
            assert len(device.unconfirmed) == RECEIVE_MAXIMUM + 200
            time.sleep(away_s)
            assert len(device.unconfirmed) == RECEIVE_MAXIMUM + 200
            assert len(device.receipts) == n
            postgres.start()
            began = time.monotonic()
            eventually(lambda: not device.unconfirmed, timeout=40)
            took = time.monotonic() - began
            assert value(postgres.dsn, "SELECT count(*) FROM event") == RECEIVE_MAXIMUM + 201
            told = f"0 receipts in between; {RECEIVE_MAXIMUM + 200} records stored {took:.1f} s after it was back"
            measured("D2", f"database killed, back after {away_s} s", "nothing is confirmed, then everything", told)
        finally:
            station.stop()


def test_sessions_that_are_killed_cost_a_second_try_and_no_row(
    plain_station: Station, own_broker: Broker, connect: Connect, postgres_server: str
) -> None:
    device = Device("plant1.gw1", connect(own_broker), plain_station.key)

    def kill_sessions() -> None:
        query(
            postgres_server,
            """
            SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = %s AND application_name = 'fleet-server'
            """,
            plain_station.dsn.rsplit("/", 1)[1],
        )

    for _ in range(6):
        for _ in range(20):
            device.make(builders.an_event())
        device.send_again()
        kill_sessions()
    eventually(lambda: not device.unconfirmed, timeout=40)
    assert value(plain_station.dsn, "SELECT count(*) FROM event") == 120


def test_a_dead_lock_is_tried_again(plain_station: Station, own_broker: Broker, connect: Connect) -> None:
    device = Device("plant1.gw1", connect(own_broker), plain_station.key)
    device.send(builders.some_scores(1))
    eventually(lambda: not device.unconfirmed)
    other = psycopg.connect(plain_station.dsn, autocommit=False)
    with other:
        other.execute("SET deadlock_timeout = '60s'")  # so that the server's transaction is the one that is ended
        other.execute("SELECT * FROM counter FOR UPDATE")
        device.send(builders.some_scores(1))  # has the device's row, and waits for the counter's
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        eventually(lambda: value(plain_station.dsn, waiting) == 1)
        other.execute("SELECT * FROM device FOR UPDATE")
        other.commit()
    eventually(lambda: not device.unconfirmed, timeout=20)
    assert value(plain_station.dsn, "SELECT count(*) FROM prediction") == 2


def test_a_late_acknowledgement_settles_nothing_on_a_new_connection() -> None:
    mailbox = Mailbox()
    subscriber = Subscriber(Settings(), mailbox)
    acknowledged: list[int] = []
    subscriber._client.ack = lambda mid, qos: acknowledged.append(mid)  # type: ignore[assignment,method-assign,return-value]
    subscriber._connected, subscriber._generation = True, 7
    old, new = (Arrived(generation, mid, 1, False, "t", b"") for generation, mid in ((6, 1), (7, 2)))
    subscriber.acknowledge([old, new])
    assert acknowledged == [2]
    subscriber._connected = False
    subscriber.acknowledge([new])
    assert acknowledged == [2]


def test_the_mailbox_is_bounded() -> None:
    mailbox = Mailbox()
    for i in range(3 * RECEIVE_MAXIMUM):
        mailbox.put(Arrived(1, i, 0, False, "t", b""))
    assert mailbox.dropped == RECEIVE_MAXIMUM
    assert [each.mid for each in mailbox.take(1)] == list(range(RECEIVE_MAXIMUM))
    mailbox.forget()
    assert mailbox.take(0.01) == []


def test_an_older_heartbeat_changes_nothing_that_a_newer_one_has_said(schema: str) -> None:
    newer = {**builders.USUAL, "version": 8}
    with connect(schema) as conn:
        store(conn, [message(a_beat(running=newer, outbox={"alarm": {"produced": 9}}), 5)], now())
        store(conn, [message(a_beat(outbox={"alarm": {"produced": 3}}), 4)], now())
        store(conn, [message(builders.a_status(), 3)], now())
    assert value(schema, "SELECT model_version FROM device") == 8
    assert value(schema, "SELECT counts -> 'alarm' ->> 'produced' FROM outbox_count") == "9"
    assert value(schema, "SELECT count(*) FROM heartbeat") == 2
    with connect(schema) as conn:  # a new outbox counts from the start; a straggler of the old one is late
        store(conn, [message(a_beat(), 1, epoch="1" * 32)], now())
        store(conn, [message(a_beat(running=newer), 6)], now())
    assert query(schema, "SELECT model_version, epoch FROM device") == [(7, "1" * 32)]


@pytest.mark.parametrize(
    ("shift", "recorded"),
    [(timedelta(minutes=6), True), (timedelta(days=-20000), None), (timedelta(days=-31), False)],
    ids=["future", "1970", "before it was installed"],
)
def test_windows_of_a_clock_that_cannot_be_right_are_stored_and_kept_out_of_training(
    schema: str, shift: timedelta, recorded: bool | None
) -> None:
    at = now() + shift
    event = builders.an_event(window_start=at, window_end=at, opened_at=at, recorded=recorded)
    with connect(schema) as conn:
        store(conn, [message(event)], now())
    assert value(schema, "SELECT body ->> 'clock_doubt' FROM event")
    assert value(schema, "SELECT count(*) FROM sample") == 0
    assert query(schema, "SELECT kind, outcome FROM decision") == [("clock", "kept out of training")]


def test_the_prediction_log_keeps_flags_and_mode_and_flags_what_no_clock_can_have_told(schema: str) -> None:
    at = now()
    ends = [at, at + timedelta(minutes=6), datetime(1970, 1, 2, tzinfo=UTC)]
    micros = np.array([e.timestamp() * 1e6 for e in ends]).astype("<i8").tobytes()
    log = builders.some_scores(3).model_copy(
        update={
            "start_us": Column.of("i8", micros),
            "end_us": Column.of("i8", micros),
            "flags": Column.of("u1", bytes([Flag.UNCERTAIN, Flag.UNCERTAIN, 0])),
            "mode": Column.of("u1", bytes([1, 255, 0])),
            "modes": ("off", "band 1"),
        }
    )
    with connect(schema) as conn:
        store(conn, [message(log)], at)
    both = Flag.UNCERTAIN | Flag.CLOCK
    rows = query(schema, "SELECT flags, mode FROM prediction ORDER BY window_end")
    assert rows == [(Flag.CLOCK, "off"), (Flag.UNCERTAIN, "band 1"), (both, None)]


@pytest.mark.parametrize(("shift", "recorded"), [(timedelta(days=-29), False), (timedelta(days=-2000), True)])
def test_a_late_window_and_an_old_recording_may_train(schema: str, shift: timedelta, recorded: bool) -> None:
    at = now() + shift
    event = builders.an_event(window_start=at, window_end=at, opened_at=at, recorded=recorded)
    with connect(schema) as conn:
        store(conn, [message(event)], now())
    assert value(schema, "SELECT count(*) FROM sample") == 1


def test_requests_for_pieces_go_to_whoever_has_them(
    plain_station: Station, own_broker: Broker, connect: Connect
) -> None:
    client = connect(own_broker)
    for device in ("plant1.gw1", "plant1.gw2"):
        fetch = Fetch(device="plant1.gw1", sha256="ab" * 32, indexes=(0, 2))
        client.publish(topics.fetch(device), dump(fetch))
    eventually(lambda: plain_station.fetched == [("plant1.gw1", "ab" * 32, (0, 2))])
    eventually(lambda: plain_station.fetches.refused == 1)
    assert value(plain_station.dsn, "SELECT count(*) FROM quarantine") == 0


def test_a_broker_that_is_killed_again_and_again_loses_nothing(
    plain_station: Station, own_broker: Broker, connect: Connect
) -> None:
    device = Device("plant1.gw1", connect(own_broker), plain_station.key)
    for restart in (own_broker.kill, own_broker.stop, own_broker.kill):
        for _ in range(40):
            device.make(builders.an_event())
        device.client.paho.publish("pdm/v1/plant1.gw1/up/alarm", b"in flight", qos=1)
        restart()
        own_broker.start()
        device.deliver(timeout=40)
    assert value(plain_station.dsn, "SELECT count(*) FROM event") == 120
    assert query(plain_station.dsn, "SELECT seq FROM ledger ORDER BY seq") == [(i,) for i in range(1, 121)]


@pytest.fixture
def server(tmp_path: Path, plain_database: str, own_broker: Broker) -> Iterator[ServerProcess]:
    running = ServerProcess(tmp_path / "server", plain_database, own_broker.port)
    yield running
    running.kill()


def assert_confirmed_is_stored(server: ServerProcess, device: Device, made: int) -> None:
    """No receipt without a row, no row twice."""
    device.read_receipts()
    stored = {row[0] for row in query(server.dsn, "SELECT seq FROM ledger WHERE stream = 'alarm'")}
    confirmed = set(range(1, made + 1)) - {seq for _, seq in device.unconfirmed}
    assert confirmed <= stored, f"receipts without a row: {confirmed - stored}"
    assert value(server.dsn, "SELECT count(*) FROM event") == len(stored)


KILLED_AT = ("ingest.before_commit", "ingest.after_commit", "ingest.after_receipt")


@pytest.mark.parametrize("point", KILLED_AT)
def test_killed_at_any_step_of_storing_there_is_no_receipt_without_a_row(
    server: ServerProcess, own_broker: Broker, connect: Connect, point: str
) -> None:
    device = Device("plant1.gw1", connect(own_broker), server.key)
    server.start(crash_at=point)
    for _ in range(25):
        device.make(builders.an_event())
    device.send_again()
    assert server.process
    assert server.process.wait(20) == -9, "the point was not reached"
    assert_confirmed_is_stored(server, device, 25)
    if point == "ingest.before_commit":
        assert len(device.unconfirmed) == 25
    server.start()
    device.deliver()
    assert value(server.dsn, "SELECT count(*) FROM event") == 25
    assert server.stop() == 0


@pytest.mark.timeout(900)
def test_killed_at_random_there_is_no_receipt_without_a_row(
    server: ServerProcess, own_broker: Broker, connect: Connect, scale: Scale, measured: Measured
) -> None:
    kills, dice = scale.times(3, 100), scale.dice("server")
    device = Device("plant1.gw1", connect(own_broker), server.key)
    made = 0
    for _ in range(kills):
        server.start()
        for _ in range(dice.randrange(20, 200)):
            device.make(builders.an_event())
            made += 1
        until = dice.randrange(made)
        device.send_again(lambda key, until=until: key[1] <= until)  # type: ignore[misc]
        server.kill()
        assert_confirmed_is_stored(server, device, made)
    server.start()
    device.deliver()
    assert value(server.dsn, "SELECT count(*) FROM event") == made
    assert value(server.dsn, "SELECT count(*) FROM ledger WHERE stream = 'alarm'") == made
    measured(
        "D1",
        f"server kill -9 x {kills}",
        "no receipt without a row",
        f"{made} records in {kills} kills: each stored once",
    )


def test_nothing_is_stored_twice_by_servers_side_by_side(plain_database: str) -> None:
    """On the same database, with the same messages in other orders: one of them stores each."""
    with connect(plain_database) as conn:
        migrate(conn)
    messages = [message(builders.an_event(), seq) for seq in range(1, 101)]
    shuffled = random.Random(3).sample(messages, len(messages))

    def one(part: list[Read]) -> Callable[[], None]:
        def work() -> None:
            for i in range(0, len(part), 10):
                with connect(plain_database) as conn:
                    batches.store(conn, part[i : i + 10], now())

        return work

    threads = [threading.Thread(target=one(part)) for part in (messages, shuffled, messages[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert value(plain_database, "SELECT count(*) FROM event") == 100
    assert value(plain_database, "SELECT count(*) FROM sample") == 100
