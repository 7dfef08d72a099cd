"""The outbox over a real broker: nothing is forgotten before a signed receipt, whatever the broker says or loses."""

from __future__ import annotations

import base64
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_agent.commands import Commands
from edge_agent.config import Broker as BrokerSettings
from edge_agent.config import OutboxRoom
from edge_agent.outbox import Outbox
from edge_agent.uplink import Uplink
from edge_agent.uplink.lanes import WINDOW, WINDOWS
from models.bundle.signing import PublicKeys, SigningKey
from models.contract.base import Stream
from models.contract.codec import dump, load
from models.contract.ids import new_epoch
from models.contract.messages import Chunk, DeviceFault, Offer
from simulators.embedded.broker import Broker
from tests.builders import Fleet, a_bundle, an_annotation, an_event, some_scores
from tests.receiver import Receiver
from tests.support import eventually


class Device:
    """An outbox and its uplink, in threads of the test."""

    def __init__(self, folder: Path, port: int, fleet: Fleet, receipt_s: float, room: OutboxRoom | None = None) -> None:
        self.outbox = Outbox(folder / "outbox.db", room)
        self.counters: Counter[str] = Counter()
        self.heard: list[Offer | Chunk] = []
        keys = PublicKeys([fleet.server.public])
        settings = BrokerSettings(port=port, keepalive_s=5)
        self.commands = Commands(fleet.device, keys, self.outbox, self.counters)
        self.uplink = Uplink(
            fleet.device, settings, keys, self.outbox, self.heard.append, self.commands.take, self.counters, receipt_s
        )
        self.thread = threading.Thread(target=self.uplink.loop)

    def waiting(self) -> int:
        return sum(self.outbox.waiting().values())


@contextmanager
def running(
    folder: Path, port: int, fleet: Fleet, receipt_s: float = 10.0, room: OutboxRoom | None = None
) -> Iterator[Device]:
    device = Device(folder, port, fleet, receipt_s, room)
    device.thread.start()
    try:
        yield device
    finally:
        device.uplink.stop()
        device.thread.join(10)
        assert not device.thread.is_alive()


@pytest.fixture
def fleet() -> Fleet:
    return Fleet(f"test.{uuid.uuid4().hex[:12]}")  # the broker is shared, and remembers


@pytest.fixture
def receiver(broker: Broker, tmp_path: Path, fleet: Fleet) -> Iterator[Receiver]:
    with Receiver(broker.port, tmp_path / "received.db", fleet) as receiver:
        yield receiver


def test_every_record_is_stored_once_and_then_forgotten(
    broker: Broker, receiver: Receiver, tmp_path: Path, fleet: Fleet
) -> None:
    with running(tmp_path, broker.port, fleet) as device:
        bodies = [an_event() for _ in range(3 * WINDOW)]
        device.outbox.put([*bodies, an_annotation(), some_scores()])
        eventually(lambda: device.waiting() == 0)
        assert receiver.bodies(Stream.ALARM) == [dump(body) for body in bodies]
        assert receiver.missing(device.outbox.counts()) == {}
        assert set(receiver.copies.values()) == {1}


def test_what_is_made_while_the_broker_is_down_is_stored_later(
    own_broker: Broker, tmp_path: Path, fleet: Fleet
) -> None:
    own_broker.stop()
    with (
        running(tmp_path, own_broker.port, fleet, receipt_s=1.0) as device,
        Receiver(own_broker.port, tmp_path / "received.db", fleet) as receiver,
    ):
        device.outbox.put([an_event(), an_annotation()])
        own_broker.start()
        eventually(lambda: device.waiting() == 0, timeout=20)
        assert receiver.numbers(Stream.ALARM) == receiver.numbers(Stream.ANNOTATION) == [1]


def test_the_ledger_closes_over_a_broker_that_is_killed_again_and_again(
    own_broker: Broker, tmp_path: Path, fleet: Fleet
) -> None:
    """A broker that forgets everything it has acknowledged, when it is killed."""
    with (
        running(tmp_path, own_broker.port, fleet, receipt_s=1.0) as device,
        Receiver(own_broker.port, tmp_path / "received.db", fleet) as receiver,
    ):
        for _ in range(3):
            for _ in range(30):
                device.outbox.put([an_event(), some_scores()])
            eventually(lambda: device.uplink.connected, timeout=20)
            own_broker.kill()
            device.outbox.put([an_annotation()])
            own_broker.start()
        eventually(lambda: device.waiting() == 0, timeout=40)
        assert receiver.missing(device.outbox.counts()) == {}
        assert receiver.numbers(Stream.ALARM) == list(range(1, 91))


def test_acknowledged_by_the_broker_is_not_stored(
    broker: Broker, receiver: Receiver, tmp_path: Path, fleet: Fleet
) -> None:
    receiver.stores = False
    with running(tmp_path, broker.port, fleet, receipt_s=0.05) as device:
        device.outbox.put([an_event()])
        eventually(lambda: device.counters["accepted_never_stored"] >= 1, timeout=20)
        assert device.waiting() == 2  # and one alarm that says so, however often it is tried
        receiver.stores = True
        eventually(lambda: device.waiting() == 0, timeout=20)
        eventually(lambda: receiver.numbers(Stream.ALARM) == [1, 2, 3], timeout=20)
        faults = [load(DeviceFault, body) for body in receiver.bodies(Stream.ALARM)[1:]]
        assert [(fault.fault, fault.cleared) for fault in faults] == [("never_stored", False), ("never_stored", True)]


def test_a_receipt_counts_only_if_the_server_signed_it_for_this_outbox(
    broker: Broker, receiver: Receiver, tmp_path: Path, fleet: Fleet
) -> None:
    receiver.receipts_for = set()
    stranger = Fleet(fleet.device)
    with running(tmp_path, broker.port, fleet) as device:
        device.outbox.put([an_event() for _ in range(5)])
        eventually(lambda: len(receiver.numbers(Stream.ALARM)) == 5)
        epoch, everything = device.outbox.epoch, {"stream": Stream.ALARM, "up_to": 5}
        good = fleet.receipt(epoch, **everything)
        other_type = good.receipt.model_copy(update={"payloadType": "application/vnd.pdm.approval.v1+json"})
        forged = [
            stranger.receipt(epoch, **everything),
            fleet.receipt(epoch, **everything, device="test.another"),
            fleet.receipt(new_epoch(), **everything),
            good.model_copy(update={"receipt": other_type}),
            good.model_copy(update={"receipt": good.receipt.model_copy(update={"signatures": ()})}),
            good.model_copy(update={"receipt": SigningKey.generate().sign(fleet.approval(a_bundle()))}),
        ]
        for note in forged:
            receiver.publish("receipt", dump(note))
        eventually(lambda: device.counters["receipts_refused"] == len(forged))
        for rubbish in (b"", b"{}", b"\xff", b"[" * 10_000, b'{"v":2}'):
            receiver.publish("receipt", rubbish)
        eventually(lambda: device.counters["unreadable_from_server"] == 5)
        assert device.waiting() == 5
        receiver.publish("receipt", dump(good))
        eventually(lambda: device.waiting() == 0)


def test_a_record_too_large_for_the_broker_blocks_nothing(
    broker: Broker, receiver: Receiver, tmp_path: Path, fleet: Fleet
) -> None:
    with running(tmp_path, broker.port, fleet) as device:
        huge = an_event(features={f"feature {i} {'x' * 100}": float(i) for i in range(4000)})
        device.outbox.put([an_event(), huge, an_event()])
        eventually(lambda: device.waiting() == 0)
        assert receiver.numbers(Stream.ALARM) == [1, 3]
        assert device.outbox.counts()[Stream.ALARM].evicted == {"oversize": ((2, 2),)}
        assert [(seq, cause) for _, seq, cause, _ in device.outbox.aside()] == [(2, "oversize")]


def test_an_alarm_overtakes_a_backlog_of_telemetry(
    broker: Broker, receiver: Receiver, tmp_path: Path, fleet: Fleet
) -> None:
    receiver.receipts_for = {Stream.ALARM}
    with running(tmp_path, broker.port, fleet) as device:
        eventually(lambda: device.uplink.connected)
        device.outbox.put([some_scores() for _ in range(5 * WINDOW)])
        eventually(lambda: len(receiver.numbers(Stream.TELEMETRY)) == WINDOWS["bulk"])
        device.outbox.put([an_event()])
        eventually(lambda: receiver.numbers(Stream.ALARM) == [1], timeout=2)
        assert len(receiver.numbers(Stream.TELEMETRY)) == WINDOWS["bulk"]  # no receipt: no more are sent


def test_offers_and_pieces_are_handed_over_and_asked_for(
    broker: Broker, receiver: Receiver, tmp_path: Path, fleet: Fleet
) -> None:
    bundle = a_bundle()
    offer = fleet.offer(bundle)
    chunk = Chunk(sha256=bundle.sha256, index=0, count=1, data=base64.b64encode(bundle.data))
    with running(tmp_path, broker.port, fleet) as device:
        eventually(lambda: device.uplink.connected)
        device.outbox.put([an_event()])
        eventually(lambda: device.waiting() == 0)  # so it listens
        receiver.publish("offer", dump(offer))
        receiver.publish("chunk", dump(chunk))
        receiver.publish("chunk", b'{"kind":"chunk","index":-1}')
        eventually(lambda: len(device.heard) == 2)
        assert device.heard == [offer, chunk]
        device.uplink.fetch(bundle.sha256, (0, 3))
        eventually(lambda: [fetch.indexes for fetch in receiver.fetches] == [(0, 3)])


def test_a_stop_is_quick_though_nobody_gives_receipts(
    broker: Broker, receiver: Receiver, tmp_path: Path, fleet: Fleet
) -> None:
    receiver.receipts_for = set()
    with running(tmp_path, broker.port, fleet) as device:
        device.outbox.put([an_event() for _ in range(10)])
        eventually(lambda: device.uplink.connected)
        began = time.monotonic()
    assert time.monotonic() - began < 3
    assert device.waiting() == 10
