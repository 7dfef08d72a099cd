"""The real agent as a process: killed at random and at the worst moments, started twice, half dead. Nothing is lost."""

from __future__ import annotations

import json
import random
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_agent.annotate import Journal
from edge_agent.outbox import Outbox
from models.bundle.signing import public_pem
from models.contract.base import Stream
from models.contract.messages import AlarmEvent, Annotation, Phase
from simulators.embedded.broker import Broker
from simulators.embedded.processes import Process, http_ready
from tests.builders import Fleet, an_annotation
from tests.receiver import Receiver
from tests.support import eventually

KILLS = 20
SEED = 5
CONFIG = """
device = "{device}"
state_dir = "state"
heartbeat_s = 0.3
[broker]
port = {port}
[trust]
server_keys = ["server.pub"]
approval_keys = ["approval.pub"]
[form]
port = 0
[[asset]]
id = "pump1"
source = "csv"
[asset.csv]
path = "recording.csv"
speed = 2000
[asset.window]
rate_hz = 1.0
n_samples = 10
hop = 5
"""


@pytest.fixture
def fleet() -> Fleet:
    return Fleet(f"test.{uuid.uuid4().hex[:12]}")


@pytest.fixture
def folder(tmp_path: Path, broker: Broker, fleet: Fleet) -> Path:
    """An agent's folder: a recording with a fault every now and then, and a configuration."""
    noise = np.random.default_rng(1).standard_normal((20_000, 2))
    for begin in range(700, 20_000, 150):
        noise[begin : begin + 40] += 8
    rows = [f"{1_772_000_000 + i},{a:.3f},{b:.3f}" for i, (a, b) in enumerate(noise)]
    (tmp_path / "recording.csv").write_text("\n".join(["time,vib,current", *rows]))
    (tmp_path / "server.pub").write_bytes(public_pem(fleet.server.public))
    (tmp_path / "approval.pub").write_bytes(public_pem(fleet.approver.public))
    (tmp_path / "agent.toml").write_text(CONFIG.format(device=fleet.device, port=broker.port))
    return tmp_path


@pytest.fixture
def receiver(folder: Path, broker: Broker, fleet: Fleet) -> Iterator[Receiver]:
    with Receiver(broker.port, folder / "received.db", fleet) as receiver:
        yield receiver


@pytest.fixture
def agent(folder: Path) -> Iterator[Process]:
    process = an_agent(folder)
    try:
        yield process
    finally:
        process.stop()


def an_agent(folder: Path, **env: str) -> Process:
    argv = [sys.executable, "-m", "edge_agent", "run", "--config", str(folder / "agent.toml")]
    return Process("agent", argv, log=folder / "agent.log", env=env)


def page(folder: Path) -> str | None:
    """The address, once it answers."""
    try:
        url = str(json.loads((folder / "state/page.json").read_text())["url"])
    except (OSError, ValueError):
        return None
    return url if http_ready(url + "/api/status") else None


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "edge_agent", words[0], "--config", str(folder / "agent.toml"), *words[1:]]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)


def closes(receiver: Receiver, outbox: Outbox) -> bool:
    """What people wait for is stored to the last record, and nothing is missing anywhere."""
    waiting = outbox.waiting()
    assert not waiting.get(Stream.ANNOTATION)
    assert not waiting.get(Stream.ALARM)
    assert receiver.missing(outbox.counts()) == {}
    return True


def once_each(receiver: Receiver) -> None:
    phases = Counter(
        (event["event_id"], event["phase"])
        for event in map(json.loads, receiver.bodies(Stream.ALARM))
        if event["kind"] == "alarm" and event["phase"] != Phase.UPDATED
    )
    assert phases
    assert set(phases.values()) == {1}


@pytest.mark.timeout(300)
def test_killed_at_random_under_load_nothing_confirmed_is_lost(
    folder: Path, agent: Process, receiver: Receiver
) -> None:
    dice = random.Random(SEED)
    (folder / "state").mkdir()
    outbox = Outbox(folder / "state/outbox.db")
    journal = Journal(outbox)
    taken: list[Annotation] = []
    for kill in range(KILLS):
        agent.start()
        if kill % 4 == 0:  # some die while they start, most at work
            time.sleep(dice.uniform(0, 1))
        else:
            before = outbox.counts()[Stream.TELEMETRY].produced
            eventually(lambda: outbox.counts()[Stream.TELEMETRY].produced > before, timeout=30, message=agent.tail())  # noqa: B023
            time.sleep(dice.uniform(0, 0.6))
        taken.append(an_annotation())
        assert journal.take(taken[-1]) == "new"  # another process writes beside it
        agent.kill()
    agent.start()
    eventually(lambda: closes(receiver, outbox), timeout=60)
    stored = [json.loads(body)["annotation_id"] for body in receiver.bodies(Stream.ANNOTATION)]
    assert stored == [str(annotation.annotation_id) for annotation in taken]
    once_each(receiver)


@pytest.mark.parametrize(
    "point", ["receipt.before_delete", "receipt.after_delete", "outbox.before_commit", "outbox.after_commit"]
)
def test_killed_at_the_worst_moments(folder: Path, agent: Process, receiver: Receiver, point: str) -> None:
    doomed = an_agent(folder, PDM_CRASH_AT=point)
    doomed.start()
    try:
        eventually(lambda: doomed.returncode is not None, timeout=30)
        assert doomed.returncode == -signal.SIGKILL
    finally:
        doomed.stop()
    agent.start()
    outbox = Outbox(folder / "state/outbox.db")
    eventually(lambda: bool(receiver.numbers(Stream.ALARM)), timeout=30, message=agent.tail())
    eventually(lambda: closes(receiver, outbox), timeout=30)
    once_each(receiver)


def test_ready_soon_after_a_kill_and_gone_soon_after_a_signal(folder: Path, agent: Process, receiver: Receiver) -> None:
    agent.start()
    eventually(lambda: page(folder), timeout=30, message=agent.tail())
    agent.kill()
    (folder / "state/page.json").unlink()
    began = time.monotonic()
    agent.start()
    eventually(lambda: page(folder), timeout=30, message=agent.tail())
    assert time.monotonic() - began < 5
    for number in (signal.SIGTERM, signal.SIGINT):
        began = time.monotonic()
        agent._signal(number)
        eventually(lambda: agent.returncode is not None)
        assert time.monotonic() - began < 4
        assert agent.returncode == 0, agent.tail()
        agent.start()
        eventually(lambda: page(folder), timeout=30)


def test_a_second_agent_on_the_folder_refuses_to_start(folder: Path, agent: Process) -> None:
    agent.start()
    eventually(lambda: page(folder), timeout=30, message=agent.tail())
    second = command(folder, "run")
    assert second.returncode == 2
    assert "another agent runs" in second.stderr
    assert len(second.stderr.splitlines()) == 1
    assert page(folder)


def test_a_part_that_dies_takes_the_process_with_it_and_nothing_confirmed(folder: Path) -> None:
    path = folder / "recording.csv"
    path.write_text(path.read_text() + "\n1772020001,broken,1\n")
    config = folder / "agent.toml"
    config.write_text(config.read_text().replace("speed = 2000", "speed = 0"))
    ended = command(folder, "run")
    assert ended.returncode == 1
    assert "line 20002" in ended.stderr
    counts = Outbox(folder / "state/outbox.db").counts()
    assert counts[Stream.ALARM].produced >= 2
    assert counts[Stream.TELEMETRY].produced >= 1


def test_the_commands_work_on_a_stopped_agent(folder: Path) -> None:
    config = folder / "agent.toml"
    config.write_text(config.read_text().replace("speed = 2000", "speed = 0"))
    assert command(folder, "run", "--once").returncode == 0
    status = json.loads(command(folder, "status", "--json").stdout)
    assert (status["agent"], status["step"], status["page"]) == ("stopped", "active", None)
    rows = json.loads(command(folder, "outbox", "--json").stdout)
    assert rows["alarm"]["waiting"] >= 2
    said = command(folder, "annotate", "--asset", "pump1", "--verdict", "unsure", "--by", "Ada")
    uuid.UUID(said.stdout.strip())
    rows = json.loads(command(folder, "outbox", "--json").stdout)
    assert rows["annotation"]["waiting"] == 1
    refused = command(folder, "rollback")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)


def test_the_form_confirms_once_and_refuses_other_sites(folder: Path, agent: Process) -> None:
    agent.start()
    url = eventually(lambda: page(folder), timeout=30, message=agent.tail())
    assert url
    events = eventually(lambda: _get(f"{url}/api/events")["events"], timeout=30)
    event = AlarmEvent.model_validate(events[0])
    said = an_annotation(asset="pump1", event_id=event.event_id).model_dump(mode="json")
    where = f"{url}/api/annotations/{said['annotation_id']}"
    assert [_put(where, said) for _ in range(5)] == [201, 200, 200, 200, 200]
    assert _put(where, said | {"note": "other words"}) == 409
    assert _put(where, said, **{"Sec-Fetch-Site": "cross-site"}) == 403
    assert _put(where, said, Origin="http://elsewhere.example") == 403
    assert Outbox(folder / "state/outbox.db").counts()[Stream.ANNOTATION].produced == 1
    with urllib.request.urlopen(f"{url}/annotate/{event.event_id}") as answer:
        text = answer.read().decode()
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    assert str(event.event_id) in text
    assert "<style" not in text
    assert 'src="/' in text


def _get(url: str) -> dict[str, list[dict[str, object]]]:
    with urllib.request.urlopen(url, timeout=5) as answer:
        found: dict[str, list[dict[str, object]]] = json.load(answer)
    return found


def _put(url: str, body: dict[str, object], **headers: str) -> int:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json", **headers}, method="PUT"
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as exc:
        return exc.code


def test_a_page_whose_port_is_taken_does_not_stop_the_watching(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = folder / "agent.toml"
        config.write_text(config.read_text().replace("[form]\nport = 0", f"[form]\nport = {port}"))
        agent = an_agent(folder)
        try:
            agent.start()
            eventually(lambda: "ALARM" in agent.tail(), timeout=30, message=agent.tail())
            url = re.findall(r"page: (\S+)/", (folder / "agent.log").read_text())[0]
            assert not url.endswith(f":{port}")
            assert http_ready(f"{url}/api/status")
        finally:
            agent.stop()
