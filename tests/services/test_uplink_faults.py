"""Bad links and brokers: found out in time, not hammered, obeyed; what kills a connection is put aside, nothing
else."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.contract.base import Stream
from models.contract.codec import dump
from simulators.embedded.broker import Broker, Mosquitto
from tests.builders import Fleet, an_annotation, an_event, some_scores
from tests.faults.proxy import BANNED, BUSY, NOT_AUTHORIZED, Proxy
from tests.receiver import Receiver
from tests.services.test_uplink import running
from tests.support import eventually

KEEPALIVE_S = 5  # of `running`


@pytest.fixture
def fleet() -> Fleet:
    return Fleet(f"test.{uuid.uuid4().hex[:12]}")


@pytest.fixture
def receiver(broker: Broker, tmp_path: Path, fleet: Fleet) -> Iterator[Receiver]:
    with Receiver(broker.port, tmp_path / "received.db", fleet) as receiver:
        yield receiver


@pytest.fixture
def proxy(broker: Broker) -> Iterator[Proxy]:
    with Proxy(broker.port) as proxy:
        yield proxy


def test_many_records_go_in_one_message_once_the_server_says_that_it_reads_them(
    broker: Broker, receiver: Receiver, tmp_path: Path, fleet: Fleet
) -> None:
    receiver.takes_packs = True
    with running(tmp_path, broker.port, fleet) as device:
        bodies = [some_scores() for _ in range(300)]
        device.outbox.put([an_annotation(note="größer ☃")])
        eventually(lambda: device.waiting() == 0)
        device.outbox.put(bodies)
        eventually(lambda: device.waiting() == 0, timeout=20)
        assert receiver.bodies(Stream.TELEMETRY) == [dump(body) for body in bodies]
        assert receiver.packs > 0
        assert receiver.missing(device.outbox.counts()) == {}
    packs, receiver.takes_packs = receiver.packs, False  # an older server in its place
    with running(tmp_path, broker.port, fleet) as device:
        device.outbox.put([an_annotation()])
        eventually(lambda: device.waiting() == 0)
        device.outbox.put([some_scores() for _ in range(50)])
        eventually(lambda: device.waiting() == 0, timeout=20)
        assert receiver.packs == packs


@pytest.mark.parametrize("sending", [True, False], ids=["sending", "idle"])
def test_a_half_open_connection_is_found_within_one_and_a_half_keepalives(
    proxy: Proxy, receiver: Receiver, tmp_path: Path, fleet: Fleet, sending: bool
) -> None:
    with running(tmp_path, proxy.port, fleet, receipt_s=60) as device:
        device.outbox.put([an_event()])
        eventually(lambda: device.waiting() == 0)
        proxy.down.dropped, since = True, time.monotonic()
        if sending:
            device.outbox.put([an_event() for _ in range(3)])
        eventually(lambda: not device.uplink.connected, timeout=2 * KEEPALIVE_S)
        assert time.monotonic() - since < 1.5 * KEEPALIVE_S + 1
        proxy.down.dropped = False
        device.outbox.put([an_event()])
        eventually(lambda: device.waiting() == 0, timeout=20)
        assert receiver.conflicts == []


@pytest.mark.parametrize(("code", "most"), [(NOT_AUTHORIZED, 1), (BANNED, 1), (BUSY, 4)])
def test_a_broker_that_refuses_is_not_hammered(
    proxy: Proxy, tmp_path: Path, fleet: Fleet, code: int, most: int
) -> None:
    proxy.refuse = code
    with running(tmp_path, proxy.port, fleet) as device:
        eventually(lambda: device.counters["connections_refused"] >= 1)
        wait_s = device.uplink._next_try - time.monotonic()
        assert wait_s > 290 if most == 1 else wait_s < 10
        time.sleep(3)
        assert len(proxy.connects) <= most


def test_a_link_that_is_reset_again_and_again_is_tried_at_most_once_a_second(
    proxy: Proxy, receiver: Receiver, tmp_path: Path, fleet: Fleet
) -> None:
    with running(tmp_path, proxy.port, fleet, receipt_s=1.0) as device:
        for _ in range(60):
            device.outbox.put([an_event()])
        began = time.monotonic()
        while time.monotonic() - began < 8:
            proxy.reset()
            time.sleep(0.1)
        gaps = [b - a for a, b in zip(proxy.connects, proxy.connects[1:], strict=False)]
        assert min(gaps) >= 0.95
        eventually(lambda: device.waiting() == 0, timeout=90)
        assert receiver.numbers(Stream.ALARM) == list(range(1, 61))


def test_a_record_that_kills_the_connection_is_put_aside_and_nothing_else(
    proxy: Proxy, receiver: Receiver, tmp_path: Path, fleet: Fleet
) -> None:
    proxy.poison = b"deadly"
    with running(tmp_path, proxy.port, fleet, receipt_s=1.0) as device:
        device.uplink._backoff.wait_s = lambda _: 0.1  # type: ignore[method-assign] - the other tests are about waiting
        device.outbox.put([an_event() for _ in range(3)])
        device.outbox.put([an_annotation(note="deadly")])
        device.outbox.put([an_event() for _ in range(3)])
        eventually(lambda: device.waiting() == 0, timeout=60)
        counts = device.outbox.counts()
        assert counts[Stream.ANNOTATION].evicted == {"kills_link": ((1, 1),)}
        assert not counts[Stream.ALARM].evicted
        assert receiver.numbers(Stream.ALARM) == [1, 2, 3, 4, 5, 6]
        assert [cause for *_, cause, _ in device.outbox.aside()] == ["kills_link"]


class Narrow(Mosquitto):
    """Takes little at once."""

    def _program(self) -> list[str]:
        argv = super()._program()
        config = self.home / "mosquitto.conf"
        text = config.read_text()
        lines = [line for line in text.splitlines() if not line.startswith(("max_packet_size", "max_inflight"))]
        config.write_text("\n".join([*lines, "max_packet_size 3000", "max_inflight_messages 2"]) + "\n")
        return argv


def test_a_brokers_smaller_limits_are_obeyed(tmp_path: Path, fleet: Fleet) -> None:
    if not Mosquitto.binary():
        pytest.skip("mosquitto is not installed")
    with Narrow(tmp_path / "broker") as broker, Receiver(broker.port, tmp_path / "received.db", fleet) as receiver:
        receiver.takes_packs = True
        with running(tmp_path, broker.port, fleet) as device:
            long = random.Random(1).randbytes(4000).hex()  # too much in a pack as well, which compresses it
            device.outbox.put([an_annotation(note="x" * 2000), an_event(), an_event(features={long: 1.0})])
            device.outbox.put([some_scores() for _ in range(100)])
            eventually(lambda: device.outbox.counts()[Stream.ALARM].evicted == {"oversize": ((2, 2),)}, timeout=30)
            eventually(lambda: len(receiver.numbers(Stream.TELEMETRY)) == 100, timeout=30)
            eventually(lambda: device.waiting() == 0, timeout=30)
            assert device.uplink._link.in_flight == 2
            assert device.counters["connections_lost"] == 0


def test_everything_is_sent_again_when_the_server_asks_for_it(
    broker: Broker, receiver: Receiver, tmp_path: Path, fleet: Fleet
) -> None:
    receiver.receipts_for = set()
    with running(tmp_path, broker.port, fleet, receipt_s=600) as device:
        device.outbox.put([an_event() for _ in range(3)])
        eventually(lambda: len(receiver.copies) == 3)
        device.uplink.send_again()
        eventually(lambda: set(receiver.copies.values()) == {2})
