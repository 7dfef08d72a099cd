"""The agent as a service manager has it: it says when it is ready and that it lives, and no trouble of the machine
makes it half alive or alarms anybody for nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.contract.base import Stream
from models.contract.health import Heartbeat
from simulators.embedded.broker import Broker
from simulators.embedded.processes import Process
from tests.builders import Fleet
from tests.faults import ledger, limits
from tests.faults.figures import Measured, Scale
from tests.faults.gateway import Gateway
from tests.receiver import Receiver
from tests.services.conftest import Client
from tests.support import eventually


@pytest.fixture
def fleet() -> Fleet:
    return Fleet(f"test.{uuid.uuid4().hex[:12]}")


@pytest.fixture
def receiver(tmp_path: Path, own_broker: Broker, fleet: Fleet) -> Iterator[Receiver]:
    with Receiver(own_broker.port, tmp_path / "received.db", fleet) as receiver:
        yield receiver


def test_it_says_when_it_is_ready_that_it_lives_and_when_it_stops(tmp_path: Path, broker: Broker, fleet: Fleet) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1500000"}
        gateway = Gateway(tmp_path / "gateway", fleet, broker.port, env=env)
        gateway.start()
        try:
            first = manager.recv(4096).decode()
            assert first.startswith("READY=1\nSTATUS=1 machines")
            assert gateway.page()  # ready means ready
            kicks, until = 0, time.monotonic() + 3
            while time.monotonic() < until:
                kicks += manager.recv(4096) == b"WATCHDOG=1"
            assert kicks >= 4
            gateway.process.terminate()
            while manager.recv(4096) != b"STOPPING=1":
                pass
            eventually(lambda: gateway.process.returncode == 0)
        finally:
            gateway.kill()


def test_settings_read_again_take_what_can_change_and_bad_ones_change_nothing(
    tmp_path: Path, broker: Broker, fleet: Fleet
) -> None:
    gateway = Gateway(tmp_path, fleet, broker.port)
    gateway.start()
    try:
        url = eventually(gateway.page, timeout=30)
        good = gateway.config.read_text()

        def reload(text: str, says: str) -> None:
            gateway.config.write_text(text)
            os.kill(gateway.process.pid, signal.SIGHUP)
            eventually(lambda: says in gateway.process.tail(), timeout=20, message=gateway.process.tail())

        reload("nonsense = 1\n" + good, "settings not taken, the old ones hold")
        place = '[[notify]]\nwebhook = "http://127.0.0.1:9/"\n'
        reload('log_level = "warning"\n' + good.replace("keepalive_s = 5", "keepalive_s = 6") + place, "read again")
        assert "taken=log_level, notify after_a_restart=broker" in gateway.process.tail().replace('"', "")
        with urllib.request.urlopen(url + "/metrics", timeout=10) as answer:
            metrics = answer.read().decode()
        assert 'pdm_counted_total{what="reloads_refused"} 1.0' in metrics  # and it is the same process
        assert 'pdm_windows_total{asset="pump1"}' in metrics
        assert 'pdm_records_waiting{stream="telemetry"}' in metrics
    finally:
        gateway.kill()


STANDS_STILL = """
import sys, time
from tests.faults import broken
broken.apply()
import edge_agent.cli, edge_agent.uplink, edge_agent.vitals
edge_agent.vitals.STALL_S = 2
edge_agent.uplink.Uplink.turn = lambda self: time.sleep(999)
sys.exit(edge_agent.cli.main(sys.argv[1:]))
"""


def test_a_part_that_stands_still_ends_the_process(tmp_path: Path, broker: Broker, fleet: Fleet) -> None:
    gateway = Gateway(tmp_path, fleet, broker.port)
    argv = [sys.executable, "-c", STANDS_STILL, "run", "--config", str(gateway.config)]
    agent = Process("agent", argv, log=tmp_path / "agent.log")
    agent.start()
    try:
        eventually(lambda: agent.returncode == 1, timeout=40, message=agent.tail())
        assert "uplink has made no progress" in agent.tail()
    finally:
        agent.kill()


class Machine:
    """Publishes samples as a machine on the plant's broker does, twenty times a second."""

    def __init__(self, broker: Broker, topic: str) -> None:
        self._client, self._topic = Client(broker), topic
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self._client.close()

    def _run(self) -> None:
        began, n = time.time(), 0
        while not self._stop.wait(0.05):
            values = [((n * 5 + i) * 7919 % 101) / 101 for i in range(5)]
            said = {"t": began + n * 0.05, "rate_hz": 100.0, "signals": {"vib": values}}
            self._client.paho.publish(self._topic, json.dumps(said), qos=0)
            n += 1


LIVE = """
[[asset]]
id = "pump2"
source = "mqtt"
silent_after_s = 1.0
[asset.mqtt]
topic = "{topic}"
rate_hz = 100.0
signals = [{{name = "vib", unit = "m/s2"}}]
[asset.window]
rate_hz = 100.0
n_samples = 50
hop = 50
"""


def test_stopped_for_a_while_it_comes_back_and_blames_no_sensor(
    tmp_path: Path, own_broker: Broker, fleet: Fleet, receiver: Receiver, measured: Measured, scale: Scale
) -> None:
    gateway = Gateway(tmp_path, fleet, own_broker.port)
    topic = f"plant/{fleet.device}"
    config = gateway.config.read_text().split("[[asset]]")[0] + LIVE.format(topic=topic)
    gateway.config.write_text(config)
    machine = Machine(own_broker, topic)
    seconds = scale.times(5, 600)  # the machine is silent after one
    try:
        gateway.start()

        def windows() -> int:
            beats = [json.loads(body) for body in receiver.bodies(Stream.HEALTH)]
            return max((b["assets"]["pump2"]["windows"] for b in beats if b["kind"] == "heartbeat"), default=0)

        eventually(lambda: windows() > 5, timeout=40, message=gateway.log[-2000:])
        with limits.stopped(gateway.process.pid):
            time.sleep(seconds)
        before = windows()
        eventually(lambda: windows() > before + 10, timeout=40, message=gateway.log[-2000:])
        assert gateway.process.returncode is None
    finally:
        machine.stop()
        gateway.stop()
    faults = [json.loads(body) for body in receiver.bodies(Stream.ALARM)]
    assert [f["fault"] for f in faults if f["kind"] == "sensor_fault"] == []
    states = [said.state for said in receiver.sessions]
    assert states == (["birth", "death"] * len(states))[: len(states)]
    ledger.assert_once_and_in_order(receiver)
    measured("A6", f"SIGSTOP for {seconds} s", "back, no alarm about it", "0 sensor faults, reconnected")


def test_without_file_descriptors_it_waits_and_goes_on_when_there_are_some(
    tmp_path: Path, own_broker: Broker, fleet: Fleet, receiver: Receiver, measured: Measured
) -> None:
    gateway = Gateway(tmp_path, fleet, own_broker.port, speed=200)
    gateway.start()
    try:
        gateway.ready()
        eventually(lambda: receiver.bodies(Stream.HEALTH), timeout=20)
        pid = gateway.process.pid
        threads = {path.name for path in Path(f"/proc/{pid}/task").iterdir()}
        usual = limits.set_descriptors(pid, 8)
        own_broker.restart()  # a connection that can not be made anew
        page = json.loads((gateway.state / "page.json").read_text())["url"]
        for _ in range(20):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(page + "/api/status", timeout=0.2)
        eventually(lambda: "no connection to the broker" in gateway.log, timeout=30)
        assert gateway.process.returncode is None, gateway.process.tail()
        limits.set_descriptors(pid, usual)
        eventually(gateway.page, timeout=30)

        def counted() -> bool:  # heartbeats made before it failed may come first
            bodies = receiver.bodies(Stream.HEALTH)
            beats = [Heartbeat.model_validate_json(body) for body in bodies if b'"heartbeat"' in body]
            return any(beat.counters.get("connections_failed") for beat in beats)

        eventually(counted, timeout=60, message=gateway.process.tail())
        assert threads <= {path.name for path in Path(f"/proc/{pid}/task").iterdir()}
    finally:
        gateway.stop()
    measured("A9", "no descriptor left, broker restarted", "counted; goes on when there are", "same threads, counted")
