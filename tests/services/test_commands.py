"""Commands over a real broker and database: they wait for a device that is off, are sent again until it has answered,
are done once, and what came of them is on the server."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edge_agent.outbox import Outbox
from fleet_server.commands import send
from fleet_server.commands.loop import CommandLoop
from fleet_server.errors import NotFound, Refused
from fleet_server.store import commands
from fleet_server.store.commands import CommandRow
from models.bundle.signing import PublicKeys
from models.contract.base import Stream
from models.contract.codec import load
from models.contract.commands import Command, CommandNote, RequestReport, SetBudget
from models.contract.messages import CommandResult
from simulators.embedded.broker import Broker
from tests.builders import Fleet, a_status
from tests.services.station import Station, query
from tests.services.test_uplink import running
from tests.support import eventually

SOON = timedelta(seconds=0.05)


class Server:
    """A station with the loop that sends commands; `sent` is what went out."""

    def __init__(self, dsn: str, broker: Broker, fleet: Fleet) -> None:
        self.station, self.fleet = Station(dsn, broker, fleet.server), fleet
        self.sent: list[Command] = []
        self.loop = CommandLoop(self.station.pool, self._publish, fleet.server, SOON)
        with self.station.pool.connection() as conn:
            conn.execute(
                "INSERT INTO device (device_id, first_seen, last_seen) VALUES (%s, now(), now())", (fleet.device,)
            )

    def _publish(self, topic: str, payload: bytes, *, retain: bool) -> bool:
        taken = self.station.subscriber.publish(topic, payload, retain=retain)
        if taken:
            self.sent.append(PublicKeys([self.fleet.server.public]).open(Command, load(CommandNote, payload).command))
        return taken

    def give(self, body: RequestReport | SetBudget, for_s: float = 60) -> uuid.UUID:
        with self.station.pool.connection() as conn:
            return send(conn, self.fleet.device, body, datetime.now(UTC) + timedelta(seconds=for_s))

    def row(self, command_id: uuid.UUID) -> CommandRow:
        with self.station.pool.connection() as conn:
            row = commands.get(conn, command_id)
        assert row
        return row

    def answered(self, command_id: uuid.UUID) -> bool:
        self.loop.turn()
        return self.row(command_id).answered_at is not None


@pytest.fixture
def server(plain_database: str, own_broker: Broker) -> Iterator[Server]:
    server = Server(plain_database, own_broker, Fleet(f"test.{uuid.uuid4().hex[:12]}"))
    server.station.start()
    yield server
    server.station.stop()


def test_a_command_waits_for_a_device_that_is_off_and_is_done_once(
    server: Server, own_broker: Broker, tmp_path: Path
) -> None:
    done: list[str] = []
    command_id = server.give(RequestReport())
    assert server.loop.turn() == 1  # nobody hears it, and the broker has no session to keep it in
    with running(tmp_path, own_broker.port, server.fleet) as device:
        device.commands.register(RequestReport, lambda body, _db: done.append(body.kind))
        eventually(lambda: device.uplink.connected)
        device.outbox.put([a_status()])  # a sign of life: now it is sent again
        eventually(lambda: server.answered(command_id), timeout=20)
        row = server.row(command_id)
        assert (row.outcome, done) == ("done", ["request_report"])
        assert server.loop.turn() == 0
        eventually(lambda: device.waiting() == 0)
    assert query(server.station.dsn, "SELECT count(*) FROM quarantine") == [(0,)]


def test_after_a_broker_forgot_everything_open_is_sent_again(server: Server, own_broker: Broker) -> None:
    first = server.give(RequestReport())
    server.loop.turn()
    own_broker.kill()
    eventually(lambda: not server.station.subscriber.connected, timeout=20)
    second = server.give(SetBudget(bytes_per_day=50_000))
    assert server.loop.turn() == 0  # not taken: nothing is noted as sent
    assert server.row(second).sends == 0
    own_broker.start()
    eventually(lambda: server.station.subscriber.connected, timeout=20)
    server.loop.republish()
    assert server.loop.turn() == 2
    assert server.loop.turn() == 0
    assert [c.command_id for c in server.sent] == [first, first, second]


def test_a_newer_word_about_a_state_closes_the_older_one(server: Server) -> None:
    older, newer = server.give(SetBudget(bytes_per_day=50_000)), server.give(SetBudget(bytes_per_day=60_000))
    each = [server.give(RequestReport()), server.give(RequestReport())]
    server.loop.turn()
    assert [c.command_id for c in server.sent] == [newer, *each]
    assert server.row(older).outcome == "superseded"
    assert server.row(older).sequence < server.row(newer).sequence


def test_what_nobody_answers_expires_and_a_late_answer_still_counts(
    server: Server, own_broker: Broker, tmp_path: Path
) -> None:
    command_id = server.give(RequestReport(), for_s=5)
    with running(tmp_path, own_broker.port, server.fleet) as device:
        device.commands.register(RequestReport, lambda _body, _db: None)
        eventually(lambda: device.uplink.connected)
        device.outbox.put([a_status()])
        eventually(lambda: device.waiting() == 0)
        server.station.worker.stop()  # what comes is not stored from here on
        server.loop.turn()
        eventually(lambda: device.waiting() == 1)
        with server.station.pool.connection() as conn:
            assert commands.expire(conn, datetime.now(UTC) + timedelta(seconds=6)) == 1
        assert (server.row(command_id).outcome, server.row(command_id).answered_at) == ("expired", None)
    outbox = Outbox(tmp_path / "outbox.db")
    rows = outbox.after(Stream.HEALTH, 0, 10)
    assert len(rows) == 1
    with server.station.pool.connection() as conn:
        assert commands.answer(conn, server.fleet.device, load(CommandResult, rows[0].body), datetime.now(UTC))
    assert server.row(command_id).outcome == "done"


def test_orders_that_can_not_be_are_refused(server: Server) -> None:
    with server.station.pool.connection() as conn:
        with pytest.raises(NotFound, match="nobody"):
            send(conn, "nobody", RequestReport(), datetime.now(UTC) + timedelta(hours=1))
        with pytest.raises(Refused, match="deadline"):
            send(conn, server.fleet.device, RequestReport(), datetime.now(UTC) - timedelta(hours=1))
