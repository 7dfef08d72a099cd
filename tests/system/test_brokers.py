"""Brokers that are real and wrong: they take less than they did, forget what they took, or are somebody else's."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from edge_agent.outbox import Outbox
from models.contract.base import Stream
from models.contract.health import StreamCount
from tests.builders import Fleet, an_event
from tests.faults.figures import Measured
from tests.faults.network import TunedBroker
from tests.faults.proxy import Proxy
from tests.receiver import Receiver
from tests.support import eventually
from tests.system.conftest import MakeGateway, connected, settled
from tests.tls import Ca, TlsMosquitto


def lost_to(counts: dict[Stream, StreamCount], stream: Stream) -> set[str]:
    """The causes for which a stream has given something up."""
    return {cause for cause, ranges in counts[stream].evicted.items() if ranges}


@pytest.mark.timeout(300)
def test_a_broker_lowers_its_limits(
    tmp_path: Path, fleet: Fleet, make_gateway: MakeGateway, measured: Measured
) -> None:
    """What no longer fits is put aside with its cause and blocks nothing; the window is the broker's."""
    with TunedBroker(tmp_path / "broker") as broker, Receiver(broker.port, tmp_path / "received.db", fleet) as receiver:
        gateway = make_gateway(broker.port, speed=200)
        gateway.start()
        connected(gateway, receiver)
        broker.lines = ("max_packet_size 12000", "max_inflight_messages 3")
        broker.restart()
        outbox = Outbox(gateway.state / "outbox.db")
        huge = an_event(features={f"feature {i} {'x' * 20}": 0.5 for i in range(400)})
        ((stream, seq),) = outbox.put([huge])
        outbox.put([an_event() for _ in range(20)])
        outbox.close()
        account = settled(receiver, gateway, evicted=[Stream.ALARM, Stream.TELEMETRY, Stream.HEALTH])
        counts = gateway.counts()
        assert lost_to(counts, stream) == {"oversize"}
        assert any(a <= seq <= b for a, b in counts[stream].evicted["oversize"])
        measured("C9", "max packet 12 kB, receive maximum 3", "obeyed, the oversize put aside", account)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_a_full_broker_drops_comes_again(
    tmp_path: Path, fleet: Fleet, make_gateway: MakeGateway, measured: Measured
) -> None:
    """Acknowledged and thrown away: mosquitto does so with what is over its queue for a subscriber who is off."""
    with TunedBroker(tmp_path / "broker", "max_queued_messages 20") as broker:
        with Receiver(broker.port, tmp_path / "received.db", fleet):
            pass  # its session is the broker's to keep
        gateway = make_gateway(broker.port, speed=200)
        gateway.start()
        eventually(lambda: gateway.counts()[Stream.ALARM].produced > 40, timeout=60)
        with Receiver(broker.port, tmp_path / "received.db", fleet) as receiver:
            began = time.monotonic()
            account = settled(receiver, gateway, timeout=120)
            took = time.monotonic() - began
        measured(
            "C10", "a queue of 20, the subscriber off", "the receipt timer brings it", f"after {took:.0f} s: {account}"
        )


def test_another_broker_behind_the_same_name(
    tmp_path: Path, fleet: Fleet, make_gateway: MakeGateway, measured: Measured
) -> None:
    """Its certificate is from another authority: TLS refuses, and not one record leaves the device."""
    right, wrong = Ca(tmp_path / "right"), Ca(tmp_path / "wrong")
    with (
        TlsMosquitto(tmp_path / "broker", wrong, wrong.certificate("broker")) as broker,
        Receiver(broker.port, tmp_path / "received.db", fleet) as receiver,
        Proxy(broker.tls_port) as wire,
    ):
        gateway = make_gateway(wire.port, speed=200, broker=f'ca = "{right.path}"')
        gateway.start()
        eventually(lambda: len(wire.connects) >= 2, timeout=30)
        eventually(lambda: gateway.counts()[Stream.ALARM].waiting, timeout=30)
        tries = f"{len(wire.connects)} handshakes, {wire.up.passed} bytes, 0 records"
        assert receiver.epochs() == []
        gateway.stop()
        gateway.config.write_text(gateway.config.read_text().replace(str(right.path), str(wrong.path)))
        gateway.start()
        account = settled(receiver, gateway)  # the same broker, for whoever trusts it
        measured("C11", "a broker of another authority", "TLS refuses, nothing sent", f"{tries}; trusted: {account}")
