"""The agent's disk fills up, fails, forgets, lies or is slow: machines are watched all the same, and it is said."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import sqlite3
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from edge_agent.outbox import Outbox
from edge_agent.outbox.place import where
from models.baseline import shipped
from models.contract.base import Stream
from models.contract.codec import dump
from simulators.embedded.broker import Broker
from tests.builders import Fleet, a_bundle, an_event, some_scores
from tests.faults import ledger, limits
from tests.faults.figures import Measured, Scale
from tests.faults.gateway import Gateway
from tests.faults.power import Disk
from tests.receiver import Receiver
from tests.support import eventually
from tests.system.conftest import MakeGateway, connected, say, settled


def windows(gateway: Gateway) -> int:
    """How many windows the agent has scored since its start, as its page says."""
    url = gateway.page()
    assert url, gateway.process.tail()
    with urllib.request.urlopen(f"{url}/api/status", timeout=5) as answer:
        status: dict[str, Any] = json.load(answer)
    return int(status["assets"]["pump1"]["windows"])


def still_scores(gateway: Gateway) -> None:
    before = windows(gateway)
    eventually(lambda: windows(gateway) > before, timeout=30, message="nothing is scored any more")


@pytest.mark.timeout(300)
def test_another_program_fills_the_disk(
    tmp_path: Path, own_broker: Broker, fleet: Fleet, make_gateway: MakeGateway, measured: Measured
) -> None:
    own_broker.stop()
    with limits.small_disk(tmp_path / "small", 16) as disk:
        gateway = make_gateway(own_broker.port, state=disk / "state", speed=100, outbox="ballast_bytes = 2097152")
        gateway.start()
        gateway.ready()
        eventually(lambda: gateway.counts()[Stream.ALARM].produced > 0, timeout=30)
        filler = limits.fill(disk)
        for _ in range(5):
            still_scores(gateway)
        kept = gateway.page() is not None
        filler.unlink()
        eventually(lambda: say(gateway) or True, timeout=30)
        own_broker.start()
        with Receiver(own_broker.port, tmp_path / "received.db", fleet) as receiver:
            account = settled(receiver, gateway, evicted=[Stream.TELEMETRY, Stream.RAW, Stream.HEALTH])
        measured("B1", "another program takes the whole disk", "no crash loop, alarms kept", f"runs on; {account}")
        assert kept
        assert gateway.process.returncode is None


@pytest.mark.timeout(300)
def test_the_file_system_turns_read_only(
    tmp_path: Path, broker: Broker, fleet: Fleet, make_gateway: MakeGateway, scale: Scale, measured: Measured
) -> None:
    """At another moment each time: in the middle of a transaction, a checkpoint, the write of a copy."""
    times, dice, grown, died = scale.times(1, 50), scale.dice("read-only"), 0, 0
    for n in range(times):
        home, device = tmp_path / str(n), Fleet(f"{fleet.device}.{n}")
        with (
            Disk(home / "disk", options="errors=remount-ro") as disk,
            Receiver(broker.port, home / "received.db", device) as receiver,
        ):
            gateway = make_gateway(broker.port, fleet=device, state=disk.folder / "state", speed=100)
            gateway.start()
            gateway.ready()
            eventually(lambda: receiver.numbers(Stream.ALARM), timeout=60)
            time.sleep(dice.uniform(0, 1))
            limits.make_read_only(disk)
            memory = ledger.rss_bytes(gateway.process.pid)
            for _ in range(10):
                still_scores(gateway)
            grown = max(grown, ledger.rss_bytes(gateway.process.pid) - memory)
            died += gateway.process.returncode is not None
            gateway.kill()
    measured(
        "B3", f"the file system turns read-only, {times} times", "scores on, says so, bounded memory",
        f"scores on in {times - died} of {times}, {grown / 2**20:.1f} MiB more memory at most",
    )  # fmt: skip
    assert died == 0
    assert grown < 40 * 2**20


def test_flipped_bits_cost_their_row_and_no_other(
    broker: Broker, fleet: Fleet, receiver: Receiver, tmp_path: Path, make_gateway: MakeGateway, scale: Scale,
    measured: Measured,
) -> None:  # fmt: skip
    flips, dice = scale.times(40, 1000), scale.dice("flips")
    gateway = make_gateway(broker.port, rows=20, speed=0)
    outbox = Outbox(gateway.state / "outbox.db")
    bodies = [an_event() if n % 2 else some_scores(20) for n in range(2 * flips)]
    outbox.put(bodies)
    outbox.close()
    damaged = flip_bodies(gateway.state / "outbox.db", flips, dice)
    gateway.start()
    account = settled(receiver, gateway, Stream.ALARM, Stream.TELEMETRY, evicted=Stream)
    counts = gateway.counts()
    given_up = {
        (stream, n)
        for stream, count in counts.items()
        for ranges in count.evicted.values()
        for n in ledger.numbers(ranges)
    }
    assert given_up == damaged
    sent = {dump(body) for body in bodies}
    assert {body for s in (Stream.ALARM, Stream.TELEMETRY) for body in receiver.bodies(s)[: len(bodies)]} & sent
    measured(
        "B4",
        f"{flips} bits flipped in rows that wait",
        "each caught, the others delivered",
        f"{len(given_up)} rows put aside; {account}",
    )


def flip_bodies(path: Path, flips: int, dice: random.Random) -> set[tuple[Stream, int]]:
    """One bit in the bytes of each of so many rows, as a tired flash cell would; which rows."""
    db = sqlite3.connect(path)
    places = db.execute("SELECT place, body FROM record").fetchall()
    chosen = dice.sample(places, flips)
    for place, body in chosen:
        wrong = bytearray(body)
        wrong[dice.randrange(len(wrong))] ^= 1 << dice.randrange(8)
        db.execute("UPDATE record SET body = ? WHERE place = ?", (bytes(wrong), place))
    db.commit()
    db.close()
    return {where(place) for place, _ in chosen}


def test_the_state_folder_is_wiped(
    broker: Broker, receiver: Receiver, make_gateway: MakeGateway, measured: Measured
) -> None:
    gateway = make_gateway(broker.port)
    gateway.start()
    connected(gateway, receiver)
    settled(receiver, gateway)
    gateway.stop()
    shutil.rmtree(gateway.state)
    gateway.start()
    eventually(lambda: len(receiver.epochs()) == 2, timeout=30, message=gateway.process.tail())
    assert receiver.conflicts == []
    measured("B6", "state folder wiped", "no silent restart of the numbers", "a new epoch; no number used twice")


def test_either_copy_of_the_floors_is_emptied(
    broker: Broker, fleet: Fleet, receiver: Receiver, make_gateway: MakeGateway, measured: Measured
) -> None:
    gateway = make_gateway(broker.port, speed=20)
    gateway.start()
    eventually(lambda: receiver.numbers(Stream.HEALTH), timeout=30)
    receiver.publish("offer", dump(fleet.offer(a_bundle(9), floor=9)), retain=True)
    eventually(lambda: gateway.status()["floor"] == 9, timeout=30)
    assignment = gateway.status()["assignment"]
    receiver.publish("offer", b"", retain=True)  # else the broker would bring it again with the next start
    for name in ("floors.json", "rollout.db"):
        gateway.kill()
        for path in gateway.state.glob(f"{name}*"):
            path.write_bytes(b"")
        gateway.start()
        gateway.ready()
        status = gateway.status()
        assert (status["floor"], status["assignment"]) >= (9, assignment), f"{name} emptied"
    measured(
        "B7",
        "each file with the floors emptied",
        "older releases refused",
        "floor and assignment known from the other copy",
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_slow_disk_holds_up_no_sampling(
    tmp_path: Path, broker: Broker, receiver: Receiver, make_gateway: MakeGateway, measured: Measured
) -> None:
    with Disk(tmp_path / "disk") as disk, limits.slow(disk, 4) as launch:
        gateway = make_gateway(broker.port, state=disk.folder / "state", speed=100, launch=launch)
        gateway.start()
        gateway.ready(120)
        before, began = windows(gateway), time.monotonic()
        time.sleep(10)
        rate = (windows(gateway) - before) / (time.monotonic() - began)
        gateway.kill()
        measured(
            "B8", "4 writes a second, 500 ms for a sync", "sampling not blocked", f"{rate:.1f} of 20 windows/s scored"
        )
        assert rate > 16


def test_a_bundle_altered_on_the_disk_never_runs(
    broker: Broker, receiver: Receiver, make_gateway: MakeGateway, measured: Measured
) -> None:
    gateway = make_gateway(broker.port)
    gateway.start()
    gateway.ready()
    gateway.kill()
    ran = set()
    for path in (gateway.state / "bundles").glob("*.bundle"):
        blob = bytearray(path.read_bytes())
        blob[len(blob) // 2] ^= 1
        path.write_bytes(bytes(blob))
    gateway.start()
    gateway.ready()
    with contextlib.suppress(AssertionError):
        ran.add(gateway.status()["current"])
    ledger.assert_approved(ran, {shipped().bundle.sha256})
    settled(receiver, gateway)
    measured(
        "B9",
        "a bit flipped in the installed model",
        "caught by its hash before it loads",
        "the shipped one runs, the altered one never did",
    )
