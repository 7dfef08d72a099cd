"""The power goes, on real file systems that forget what was not synced."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest

from edge_agent.bundles import Memory
from models.baseline import shipped
from models.contract.base import Stream
from models.contract.codec import dump
from simulators.embedded.broker import Broker
from simulators.embedded.processes import Process
from tests.builders import Fleet, a_bundle
from tests.faults import ledger
from tests.faults.figures import Measured, Scale
from tests.faults.gateway import LIFELINE, Gateway, program
from tests.faults.power import Disk, Kind
from tests.receiver import Receiver
from tests.support import eventually


class People:
    """Technicians who annotate without a pause, in a process of their own; and what was confirmed to them."""

    def __init__(self, gateway: Gateway) -> None:
        self._told = gateway.home / "confirmed"  # on another disk than the agent's
        argv = [*program("tests.faults.people"), str(gateway.state), str(self._told)]
        self.process = Process("people", argv, log=gateway.home / "people.log", lifeline=LIFELINE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()

    def confirmed(self) -> list[str]:
        """In the order in which they were confirmed."""
        return self._told.read_text().splitlines() if self._told.exists() else []


@contextmanager
def a_gateway(tmp_path: Path, broker: Broker, fleet: Fleet, disk: Disk) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path, fleet, broker.port, state=disk.folder / "state")
    try:
        yield gateway
    finally:
        gateway.kill()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_power_cut_under_load_loses_nothing_confirmed(
    tmp_path: Path, broker: Broker, fleet: Fleet, kind: Kind, scale: Scale, measured: Measured
) -> None:
    cuts, dice = scale.times(5 if kind == "ext4" else 3, 50), scale.dice(f"power {kind}")
    with (
        Disk(tmp_path / "disk", kind) as disk,
        Receiver(broker.port, tmp_path / "received.db", fleet) as receiver,
        a_gateway(tmp_path, broker, fleet, disk) as gateway,
        People(gateway) as people,
    ):
        floor = 0
        for cut in range(1, cuts + 1):
            gateway.start()
            gateway.ready()
            people.process.start()
            said = len(people.confirmed())
            eventually(lambda: len(people.confirmed()) > said + 5, timeout=60, message=people.process.tail())  # noqa: B023
            receiver.publish("offer", dump(fleet.offer(a_bundle(cut + 1), floor=cut + 1)), retain=True)
            if cut % 2:
                eventually(lambda: assigned(receiver) == fleet.sequence, timeout=150)
                floor = cut + 1
            time.sleep(dice.uniform(0, 1))
            before = gateway.counts()
            disk.cut()
            gateway.kill()
            people.process.kill()
            disk.restore()
            ledger.assert_sound(gateway.state / "outbox.db")
            after = gateway.counts()
            assert {s: n.produced for s, n in after.items() if n.produced < before[s].produced} == {}, "forgotten"
            memory = Memory(gateway.state)
            assert (memory.get("floor"), memory.get("sequence")) >= (floor, assigned(receiver)), "a floor is lower"
            memory.close()
        gateway.start()
        eventually(lambda: _delivered(receiver, gateway), timeout=60)
        account = ledger.assert_closed(receiver, gateway.counts())
        stored = [json.loads(body)["annotation_id"] for body in receiver.bodies(Stream.ANNOTATION)]
        lost = [said for said in people.confirmed() if said not in {*stored}]
        assert lost == []
        assert ledger.assert_once_and_in_order(receiver)
        measured(
            "A3",
            f"power cut x {cuts} under load on {kind}",
            "0 confirmed lost, no floor lower",
            f"{kind}: 0 of {len(people.confirmed())} annotations lost in {cuts} cuts, no floor lower; {account}",
        )


def assigned(receiver: Receiver) -> int:
    """The newest assignment that the agent has reported to anybody: it may never be taken for unseen again."""
    told = (json.loads(body) for body in receiver.bodies(Stream.HEALTH) if b'"rollout_status"' in body)
    return max((body["assignment"] for body in told), default=0)


def _delivered(receiver: Receiver, gateway: Gateway) -> bool:
    ledger.assert_delivered(receiver, gateway.counts())
    return True


@pytest.mark.timeout(600)
def test_a_power_cut_during_the_very_first_start(
    tmp_path: Path, broker: Broker, fleet: Fleet, scale: Scale, measured: Measured
) -> None:
    cuts, dice = scale.times(2, 50), scale.dice("first start")
    ran: set[str] = set()
    for cut in range(cuts):
        home = tmp_path / str(cut)
        with Disk(home / "disk") as disk, a_gateway(home, broker, Fleet(f"{fleet.device}.{cut}"), disk) as gateway:
            gateway.start()
            eventually(gateway.state.exists, timeout=60)  # before that there is nothing to lose
            time.sleep(dice.uniform(0, 0.5))
            disk.cut()
            gateway.kill()
            disk.restore()
            gateway.start()
            gateway.ready()
            status = gateway.status()
            ran.add(status["current"])
            ledger.assert_sound(gateway.state / "outbox.db")
            gateway.stop()
            assert gateway.process.returncode == 0
    ledger.assert_approved(ran, {shipped().bundle.sha256})
    measured(
        "A5",
        f"power cut x {cuts}, 0 to 500 ms into the first start",
        "starts with the shipped baseline",
        f"{cuts} of {cuts} started with the baseline, no half-made database",
    )
