"""The agent as a process over a link and a broker that fail in every way but one: none of it may cost a record."""

from __future__ import annotations

import json
import random
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from models.bundle.files import digest
from models.contract.base import ModelRef, Stream
from models.contract.codec import dump
from simulators.embedded.broker import Broker
from tests.builders import Fleet
from tests.faults import proxy
from tests.faults.figures import Measured, Scale
from tests.faults.network import Link, linked_broker
from tests.faults.proxy import Proxy
from tests.receiver import Receiver
from tests.support import eventually
from tests.system.conftest import MakeGateway, connected, say, serving, settled

KEEPALIVE_S = 5  # as the gateway is configured


@pytest.mark.timeout(600)
def test_a_broker_stopped_and_killed_again_and_again(
    own_broker: Broker, own_receiver: Receiver, make_gateway: MakeGateway, scale: Scale, measured: Measured
) -> None:
    times, dice = scale.times(4, 20), scale.dice("broker")
    gateway = make_gateway(own_broker.port, speed=400)
    gateway.start()
    for n in range(times):
        connected(gateway, own_receiver)
        (own_broker.kill if n % 2 else own_broker.stop)()
        say(gateway)
        time.sleep(dice.uniform(0, 1))
        own_broker.start()
    account = settled(own_receiver, gateway)
    measured("C1", f"broker stopped or killed {times} times", "the ledger closes", account)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "share", [0.3, pytest.param(0.05, marks=pytest.mark.slow), pytest.param(0.001, marks=pytest.mark.slow)]
)
def test_packets_get_lost(
    tmp_path: Path, fleet: Fleet, make_gateway: MakeGateway, share: float, scale: Scale, measured: Measured
) -> None:
    lossy_s = scale.times(6, 60)
    with (
        Link() as link,
        linked_broker(tmp_path / "broker", link) as broker,
        Receiver(broker.port, tmp_path / "received.db", fleet) as receiver,
    ):
        gateway = make_gateway(broker.port, host=link.host, launch=link.launch, speed=200)
        gateway.start()
        connected(gateway, receiver)
        link.lose(share)
        began, before = time.monotonic(), sum(len(receiver.numbers(stream)) for stream in Stream)
        while time.monotonic() < began + lossy_s:
            say(gateway)
            time.sleep(1)
        through = sum(len(receiver.numbers(stream)) for stream in Stream) - before
        lost = link.lost()
        link.heal()
        account = settled(receiver, gateway, timeout=120)
        measured(
            "C3",
            f"{share:.1%} of packets lost for {lossy_s} s",
            "goodput falls, nothing lost",
            f"{share:.1%}: {lost} packets lost, {through / lossy_s:.1f} records/s came through; {account}",
        )
        assert lost or share < 0.01  # a thousandth needs the long form


@pytest.mark.timeout(300)
def test_a_partition_in_one_direction(
    tmp_path: Path, fleet: Fleet, make_gateway: MakeGateway, scale: Scale, measured: Measured
) -> None:
    """The agent can send and hears nothing: it must not believe for long that it is connected."""
    found: list[float] = []
    with (
        Link() as link,
        linked_broker(tmp_path / "broker", link) as broker,
        Receiver(broker.port, tmp_path / "received.db", fleet) as receiver,
    ):
        gateway = make_gateway(broker.port, host=link.host, launch=link.launch, speed=100)
        gateway.start()
        for n in range(1, scale.times(1, 10) + 1):
            connected(gateway, receiver)
            link.lose(1.0, "in")
            began = time.monotonic()
            eventually(lambda: gateway.log.count("connection to the broker lost") == n, timeout=30)  # noqa: B023
            found.append(time.monotonic() - began)
            say(gateway)
            link.heal()
        account = settled(receiver, gateway)
        measured(
            "C4",
            f"replies lost, requests not, {len(found)} times",
            f"found within {1.5 * KEEPALIVE_S:g} s, nothing twice",
            f"found after {max(found):.1f} s (keepalive {KEEPALIVE_S} s); {account}",
        )
        assert max(found) < 1.5 * KEEPALIVE_S + 1


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_slow_link_carries_a_model_and_alarms_at_the_same_time(
    own_broker: Broker, own_receiver: Receiver, fleet: Fleet, make_gateway: MakeGateway, measured: Measured
) -> None:
    data, size = random.Random(7).randbytes(60_000), 2048  # no bundle: it is refused once all of it is there
    blob = SimpleNamespace(data=data, ref=ModelRef(name="pump", version=9, sha256=digest(data)))
    with Proxy(own_broker.port) as slow:
        for way in (slow.up, slow.down):
            way.latency_s, way.bytes_per_s = 1.0, 32_000  # 256 kbit/s
        gateway = make_gateway(slow.port, speed=20)
        gateway.start()
        connected(gateway, own_receiver)
        began, alarms = time.monotonic(), len(own_receiver.numbers(Stream.ALARM))
        with serving(own_receiver, {blob.ref.sha256: data}, size) as served:
            own_receiver.publish("offer", dump(fleet.offer(blob, chunk_bytes=size)), retain=True)  # type: ignore[arg-type]
            eventually(lambda: len(served) > 8, timeout=60)
            slow.reset()
            reached(own_receiver, "rejected")
        took = time.monotonic() - began
        pieces = -(-len(data) // size)
        eventually(lambda: len(own_receiver.numbers(Stream.ALARM)) > alarms, timeout=30)
        account = settled(own_receiver, gateway)
        measured(
            "C5",
            "2 s round trip, 256 kbit/s, one RST in the middle",
            "the transfer resumes, telemetry is not starved",
            f"{pieces} pieces in {took:.0f} s, {len(served) - pieces} sent twice; {account}",
        )
        assert len(served) <= 2 * pieces


def reached(receiver: Receiver, step: str) -> None:
    """Wait until the agent reports it."""

    def told() -> bool:
        bodies = [json.loads(body) for body in receiver.bodies(Stream.HEALTH)]
        return any(body["kind"] == "rollout_status" and body["step"] == step for body in bodies)

    eventually(told, timeout=90)


@pytest.mark.timeout(300)
def test_connections_that_break_in_the_middle_of_a_packet(
    own_broker: Broker, own_receiver: Receiver, make_gateway: MakeGateway, scale: Scale, measured: Measured
) -> None:
    times, dice = scale.times(4, 40), scale.dice("cut")
    with Proxy(own_broker.port) as wire:
        gateway = make_gateway(wire.port, speed=200)
        gateway.start()
        connected(gateway, own_receiver)
        began = time.monotonic()
        for n in range(times):
            if n % 2:
                wire.reset()
            else:
                wire.up.cut_after = dice.randrange(1, 2000)
            say(gateway)
            time.sleep(3)
        took = time.monotonic() - began
        connects = wire.connects_since(began)
        wire.up.cut_after = None
        account = settled(own_receiver, gateway)
        measured(
            "C6",
            f"RST or a cut in a packet every 3 s, {times} times",
            "resumes, <= 1 connect/s",
            f"{connects} connects in {took:.0f} s; {account}",
        )
        assert 1 <= connects <= took


@pytest.mark.timeout(300)
def test_a_broker_that_refuses_is_not_hammered(
    own_broker: Broker, own_receiver: Receiver, make_gateway: MakeGateway, scale: Scale, measured: Measured
) -> None:
    """Each refusal for a while, in an agent of its own: whoever is not authorised need not ask again soon."""
    during = scale.times(12, 120)
    refusals = ((proxy.NOT_AUTHORIZED, 1), (proxy.BANNED, 1), (proxy.BUSY, during))
    with ExitStack() as stack:
        doors = [stack.enter_context(Proxy(own_broker.port, refuse=reason)) for reason, _ in refusals]
        gateways = [make_gateway(door.port, speed=20) for door in doors]
        for gateway in gateways:
            gateway.start()
        for door in doors:
            eventually(lambda: door.connects, timeout=60)  # noqa: B023
        time.sleep(during)
        for (reason, most), door, gateway in zip(refusals, doors, gateways, strict=True):
            connects = len(door.connects)
            measured(
                "C8",
                f"CONNACK {reason:#x} for {during} s",
                f"<= {most} connects",
                f"{reason:#x}: {connects} in {during} s",
            )
            assert connects <= most
            gateway.stop()
        doors[-1].refuse = None
        gateways[-1].start()
        settled(own_receiver, gateways[-1])
