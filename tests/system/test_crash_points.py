"""One agent is killed at every point that models/crash_points.py lists, one after the other, on the same disk."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from edge_agent.bundles import Memory
from models.contract.codec import dump
from models.crash_points import POINTS, VARIABLE
from simulators.embedded.broker import Broker
from tests.builders import Fleet, a_bundle
from tests.faults import ledger
from tests.faults.figures import Measured
from tests.faults.gateway import Gateway
from tests.receiver import Receiver
from tests.services import test_ingest, test_learning
from tests.support import eventually
from tests.system.conftest import MakeGateway, connected, serving, settled

OLD, NEW, NEWER, BARRED, CHALLENGER, HELD = (a_bundle(n, limit=0.5 + n / 100) for n in range(1, 7))
FOREIGN = a_bundle(1, signals=({"name": "pressure", "unit": "bar"},), inputs=("pressure.rms",))
# Where the server is killed as well, on a real database.
SERVERS = {*test_ingest.KILLED_AT, *(f"train.{step}" for step in test_learning.KILLED_IN)}


def offers(bundle: object, **changes: object) -> Callable[[Life], None]:
    return lambda life: life.receiver.publish("offer", dump(life.fleet.offer(bundle, **changes)), retain=True)  # type: ignore[arg-type]


def nothing(_: Life) -> None:
    """It comes there by itself."""


def no_way_back(life: Life) -> None:
    """Neither the bundle before nor the baseline is of any use, and somebody wants to go back."""
    (life.gateway.home / "old.bundle").write_bytes(FOREIGN.data)
    (life.gateway.state / "bundles" / f"{OLD.sha256}.bundle").write_bytes(b"altered")
    life.remember(go_back="somebody wants to")


def has_fallen(life: Life) -> None:
    """Again and again: the next release has to wait."""
    (life.gateway.home / "old.bundle").write_bytes(OLD.data)
    life.remember(alive=True, falls=5, settled=[NEWER.sha256])
    offers(HELD)(life)


LIFE = {  # in this order: before the start, what leads there
    "bundle.before_rename": nothing,
    "bundle.after_rename": nothing,
    "outbox.before_commit": nothing,
    "outbox.after_commit": nothing,
    "receipt.before_delete": nothing,
    "receipt.after_delete": nothing,
    "rollout.fetching": offers(NEW),
    "rollout.checking": nothing,
    "rollout.trial": nothing,
    "rollout.rolled_back": nothing,  # for the agent was killed during the trial
    "rollout.active": offers(NEWER),
    "rollout.rejected": offers(BARRED, barred=[BARRED.sha256]),
    "rollout.shadow": offers(CHALLENGER, mode="shadow", shadow={"seconds": 0.5}),
    "rollout.shadowed": nothing,
    "rollout.inconsistent": no_way_back,
    "rollout.offered": has_fallen,
}


@dataclass
class Life:
    """One device's disk, and who runs on it."""

    gateway: Gateway
    receiver: Receiver
    fleet: Fleet
    ran: set[str] = field(default_factory=set)

    def remember(self, **values: object) -> None:
        memory = Memory(self.gateway.state)
        memory.set(**values)
        memory.close()

    def dies_at(self, point: str) -> None:
        """Raises AssertionError: it never came there."""
        doomed = self.gateway.another(env={VARIABLE: point})
        doomed.start()
        try:
            eventually(lambda: doomed.returncode is not None, timeout=60, message=f"{point} not hit: {doomed.tail()}")
            assert doomed.returncode == -signal.SIGKILL, f"{point}: {doomed.tail()}"
        finally:
            doomed.kill()
        # The bundles that ran are not to blame, and falls in a row have a test of their own.
        self.remember(alive=False, falls=0)
        memory = Memory(self.gateway.state)
        self.ran.add(memory.get("current") or OLD.sha256)
        memory.close()


def test_every_listed_point_has_a_test_that_dies_there() -> None:
    """And each of them checks that the process did die, of that signal."""
    assert {*LIFE} | SERVERS == POINTS


@pytest.mark.timeout(400)
def test_an_agent_is_killed_at_every_point_of_its_life(
    broker: Broker, receiver: Receiver, fleet: Fleet, make_gateway: MakeGateway, measured: Measured
) -> None:
    gateway = make_gateway(
        broker.port, samples=shaken(200_000), speed=20, more='baseline = "old.bundle"', heartbeat_s=0.2,
        asset="[asset.csv.recording]\nrate_hz = 100.0",
    )  # fmt: skip
    (gateway.home / "old.bundle").write_bytes(OLD.data)
    life = Life(gateway, receiver, fleet)
    bundles = {bundle.sha256: bundle.data for bundle in (NEW, NEWER, BARRED, CHALLENGER, HELD)}
    with serving(receiver, bundles):
        for point, lead in LIFE.items():
            lead(life)
            life.dies_at(point)
        gateway.start()
        connected(gateway, receiver)
        account = settled(receiver, gateway)
    ledger.assert_sound(gateway.state / "outbox.db")
    ledger.assert_sound(gateway.state / "rollout.db")
    ledger.assert_approved(life.ran | {gateway.status()["current"]}, {OLD.sha256, NEWER.sha256})
    measured(
        "A2",
        f"killed at each of {len(LIFE)} points",
        "stored once, a good model runs",
        f"{len(LIFE)} points hit; {account}",
    )


def shaken(rows: int) -> str:
    """One signal at 100 Hz as CSV: quiet, and shaken for a second every ten."""
    samples = 0.1 * np.random.default_rng(1).standard_normal(rows)
    for begin in range(500, rows, 1000):
        samples[begin : begin + 200] *= 40
    return "\n".join(["vib", *(f"{sample:.4f}" for sample in samples)])
