"""One agent as a process that reads Modbus TCP, OPC UA and Sparkplug B at once, each over a line that is cut."""

from __future__ import annotations

import json
import math
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest
from pymodbus.constants import ExcCodes

from models.bundle.signing import public_pem
from models.contract.base import Stream
from models.contract.signals import WindowSpec
from simulators.embedded.broker import Broker
from simulators.embedded.processes import Process
from tests.builders import Fleet, a_bundle
from tests.faults.figures import Measured, Scale
from tests.faults.gateway import program
from tests.faults.proxy import Proxy
from tests.receiver import Receiver
from tests.services.sources.edge_node import EdgeNode
from tests.services.sources.plc import Plc
from tests.services.sources.ua_server import NAMESPACE, UaServer
from tests.support import eventually

RATE_HZ: Final = 5.0
IN_THE_LINE: Final = 5  # values of a second: what is on its way when a line is cut is lost with it, in either direction
N: Final = 4  # samples of a window; each sample begins another one
CONFIG = """
device = "{device}"
baseline = "any.bundle"
state_dir = "state"
[broker]
port = {fleet_port}
[uplink]
telemetry_every_s = 0.3
[trust]
server_keys = ["server.pub"]
approval_keys = ["approval.pub"]
[form]
port = -1
[[asset]]
id = "modbus"
source = "modbus"
sample_share = 1.0
[asset.modbus]
host = "127.0.0.1"
port = {modbus}
timeout_s = 5
rate_hz = {rate}
signals = [{{ name = "vib", address = 0 }}]
[[asset]]
id = "opcua"
source = "opcua"
sample_share = 1.0
[asset.opcua]
url = "opc.tcp://127.0.0.1:{opcua}/plant/"
rate_hz = {rate}
sampling_s = 0
publishing_s = 0.1
queue_size = 100
timeout_s = 2
wait_s = 3
signals = [{{ name = "vib", node = "nsu={namespace};s=Pump1.count" }}]
[[asset]]
id = "sparkplug"
source = "sparkplug"
sample_share = 1.0
[asset.sparkplug]
host = "127.0.0.1"
port = {sparkplug}
group = "{group}"
node = "gw"
device = "motor"
rate_hz = {rate}
wait_s = 3
signals = [{{ name = "vib", metric = "Speed" }}]
"""


@dataclass
class Counting:
    """A machine whose value is 1, 2, 3, ...; a line to it, and what of it the agent can not have.

    Attributes:
        last: the newest value.
        away: (first number, last number) that an outage may have cost.
    """

    proxy: Proxy
    last: int = 0
    away: list[tuple[int, int]] = field(default_factory=list)

    def cut(self, seconds: float, connects: Callable[[], int]) -> None:
        """Nothing gets through any more, then both sides are told. Returns when the agent has the line again."""
        before, connected = self.last, connects()
        self.proxy.up.dropped = self.proxy.down.dropped = True
        time.sleep(seconds)
        self.proxy.up.dropped = self.proxy.down.dropped = False
        self.proxy.reset()
        eventually(lambda: connects() > connected, 60, "the line is back")
        self.away.append((before - IN_THE_LINE, self.last + IN_THE_LINE))


class CountingPlc(Plc):
    """Each poll is answered with the next number: what was never polled was never sent."""

    line: Counting

    async def _action(self, *request: Any) -> ExcCodes | None:
        self.line.last += 1
        self.set("holding", 0, self.line.last)
        return await super()._action(*request)


class Plant:
    """Two of the machines: at each instant of the grid the next number, with that time as its stamp."""

    def __init__(self, lines: list[Counting], change: Callable[[int, float], None]) -> None:
        self._lines, self._change, self._done = lines, change, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Plant:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(10)

    def _run(self) -> None:
        instant = math.ceil(time.time() * RATE_HZ)
        number = 1
        while not self._done.wait(max(0.0, instant / RATE_HZ - time.time())):
            self._change(number, instant / RATE_HZ)
            for line in self._lines:
                line.last = number
            instant, number = instant + 1, number + 1


class Stored:
    """What has been stored, out of the features of its windows. Each is looked at once, and not more often than needed:
    the machines of this plant live in the same process."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver, self._lock = receiver, threading.Lock()
        self._windows: defaultdict[str, dict[float, tuple[float, float]]] = defaultdict(dict)
        self._seen: set[bytes] = set()
        self._due = 0.0

    def runs(self, asset: str) -> list[list[int]]:
        """The values of an asset; those without a gap between them together."""
        with self._lock:
            self._look()
            return [values for run in _runs(self._windows[asset]) if (values := _values(run))]

    def last(self, asset: str) -> int:
        return max((run[-1] for run in self.runs(asset)), default=-1)

    def _look(self) -> None:
        if time.monotonic() < self._due:
            return
        for raw in self._receiver.bodies(Stream.TELEMETRY):
            if raw in self._seen:
                continue
            self._seen.add(raw)
            body = json.loads(raw)
            if body["kind"] == "sampled_window":
                assert body["probability"] == 1, "every window is sent"
                end = datetime.fromisoformat(body["window_end"]).timestamp()
                features = body["features"]
                self._windows[body["asset"]][end] = (features["vib.mean"] * N, features["vib.peak_to_peak"])
        self._due = time.monotonic() + 0.2


def _runs(windows: dict[float, tuple[float, float]]) -> Iterator[list[tuple[float, float]]]:
    """Windows that begin one sample after the other: sum and range."""
    run: list[tuple[float, float]] = []
    before = -math.inf
    for end, facts in sorted(windows.items()):
        if run and end - before > 1.5 / RATE_HZ:
            yield run
            run = []
        run.append(facts)
        before = end
    if run:
        yield run


def _values(run: list[tuple[float, float]]) -> list[int]:
    """From a window of N numbers in a row on, each sum tells of the sample that is new and of the one that left."""
    at = next((i for i, (total, spread) in enumerate(run) if spread == N - 1 and total % N == sum(range(N)) % N), None)
    if at is None:
        return []
    first = (run[at][0] - sum(range(N))) / N
    values = {at + i: first + i for i in range(N)}
    for i in range(at + 1, len(run)):
        values[i + N - 1] = values[i - 1] + run[i][0] - run[i - 1][0]
    for i in range(at - 1, -1, -1):
        values[i] = values[i + N] + run[i][0] - run[i + 1][0]
    return [number for i in sorted(values) if (number := round(values[i])) > 0]


def gaps(runs: list[list[int]], last: int) -> list[tuple[int, int]]:
    """Stretches of numbers up to `last` that are not among the values, from the first that is."""
    there = [*sorted({v for run in runs for v in run if v <= last}), last + 1]
    return [(a + 1, b - 1) for a, b in pairwise(there) if b - a > 1]


@pytest.mark.timeout(600)
def test_three_protocols_at_once_and_each_line_cut_loses_only_what_was_never_sent(
    tmp_path: Path, broker: Broker, own_broker: Broker, fleet: Fleet, scale: Scale, measured: Measured
) -> None:
    cuts, agent_log = scale.times(1, 20), tmp_path / "agent.log"
    group = uuid.uuid4().hex
    spec = WindowSpec(rate_hz=RATE_HZ, n_samples=N, hop=1, max_gap_samples=0)
    (tmp_path / "any.bundle").write_bytes(a_bundle(window=spec, limit=1e6).data)
    (tmp_path / "server.pub").write_bytes(public_pem(fleet.server.public))
    (tmp_path / "approval.pub").write_bytes(public_pem(fleet.approver.public))
    ua = UaServer({"count": 0.0})
    with (
        CountingPlc() as plc,
        Proxy(plc.port) as modbus,
        Proxy(ua.port) as opcua,
        Proxy(own_broker.port) as sparkplug,
        Receiver(broker.port, tmp_path / "received.db", fleet) as receiver,
        ExitStack() as started,
    ):
        ports = {"modbus": modbus.port, "opcua": opcua.port, "sparkplug": sparkplug.port, "fleet_port": broker.port}
        config = CONFIG.format(device=fleet.device, rate=RATE_HZ, namespace=NAMESPACE, group=group, **ports)
        (tmp_path / "agent.toml").write_text(config)
        command = [*program("edge_agent"), "run", "--config", str(tmp_path / "agent.toml")]
        agent = Process("agent", command, log=agent_log)
        stored = Stored(receiver)
        lines = {"modbus": Counting(modbus), "opcua": Counting(opcua), "sparkplug": Counting(sparkplug)}
        plc.line = lines["modbus"]

        def heard(than: dict[str, int]) -> bool:
            assert agent.returncode is None, agent.tail()
            return all(stored.last(name) >= number for name, number in than.items())

        def cut(name: str) -> None:
            dice = scale.dice(name)
            for _ in range(cuts):
                time.sleep(dice.uniform(0, 1))  # alone, or while another one is away
                lines[name].cut(dice.uniform(0.2, 1), lambda: agent_log.read_text().count(f"connected asset={name}"))
                upto = {name: lines[name].last}
                eventually(lambda upto=upto: heard(upto), 60)  # type: ignore[misc]

        started.callback(agent.kill)
        agent.start()
        started.enter_context(ua)  # it takes as long to start as the agent does
        node = EdgeNode(own_broker.port, group)
        node.values["motor"]["Speed"] = 0.0
        started.enter_context(node)

        def change(number: int, at: float) -> None:
            ua.write("count", float(number), stamp=at)
            node.change("motor", "Speed", float(number), stamp=at)

        with Plant([lines["opcua"], lines["sparkplug"]], change):
            eventually(lambda: heard(dict.fromkeys(lines, 1)), 60, agent.tail())
            with ThreadPoolExecutor() as hands:
                list(hands.map(cut, lines))
            upto = {name: line.last + IN_THE_LINE for name, line in lines.items()}
            eventually(lambda: heard(upto), 60, agent.tail())
        account = []
        for name, line in lines.items():
            runs = stored.runs(name)
            found = gaps(runs, upto[name])
            assert all(any(a <= lo and hi <= b for a, b in line.away) for lo, hi in found), (name, found, line.away)
            if name == "modbus":  # what was not polled was never sent: an answer in the line is all that can be lost
                assert sum(hi - lo + 1 for lo, hi in found) <= cuts, found
            else:
                assert len(found) == cuts, (name, found, line.away)
                steps = {b - a for run in runs for a, b in pairwise(run)}
                assert steps == {1}, (name, runs, "nothing is carried over a gap")
            lost = sum(hi - lo + 1 for lo, hi in found)
            account.append(f"{name} {upto[name] - lost} stored, {lost} in {len(found)} gaps, none elsewhere")
    measured("F4", f"each of three lines cut {cuts} times", "lost: only what was never sent", "; ".join(account))
