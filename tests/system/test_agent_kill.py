"""The real agent as a process: killed at random and at the worst moments, started twice, half dead. Nothing is lost."""

from __future__ import annotations

import json
import re
import signal
import socket
import statistics
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.annotate import Journal
from edge_agent.outbox import Outbox
from models.contract.base import Stream
from models.contract.events import AlarmEvent
from models.contract.messages import Annotation
from simulators.embedded.broker import Broker
from simulators.embedded.processes import Process, http_ready
from tests.builders import Fleet, an_annotation
from tests.faults import ledger, limits
from tests.faults.figures import Measured, Scale
from tests.faults.gateway import Gateway
from tests.receiver import Receiver
from tests.support import eventually
from tests.system.conftest import MakeGateway, connected, say, settled


@pytest.fixture
def gateway(tmp_path: Path, broker: Broker, fleet: Fleet) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path, fleet, broker.port)
    try:
        yield gateway
    finally:
        gateway.kill()


@pytest.mark.timeout(300)
def test_killed_at_random_under_load_nothing_confirmed_is_lost(
    gateway: Gateway, receiver: Receiver, scale: Scale, measured: Measured
) -> None:
    kills, dice = scale.times(20, 200), scale.dice("kill")
    gateway.state.mkdir()
    outbox = Outbox(gateway.state / "outbox.db")
    journal = Journal(outbox)
    taken: list[Annotation] = []
    ready: list[float] = []
    for kill in range(kills):
        gateway.start()
        if kill % 4 == 0:  # some die while they start, most at work
            time.sleep(dice.uniform(0, 1))
        else:
            began = time.monotonic()
            gateway.ready()
            ready.append(time.monotonic() - began)
            before = outbox.counts()[Stream.TELEMETRY].produced
            eventually(lambda: outbox.counts()[Stream.TELEMETRY].produced > before, timeout=30)  # noqa: B023
            time.sleep(dice.uniform(0, 0.6))
        taken.append(an_annotation())
        assert journal.take(taken[-1]) == "new"  # another process writes beside it
        gateway.kill()
    gateway.start()
    eventually(lambda: delivered(receiver, outbox), timeout=60)
    account = ledger.assert_closed(receiver, outbox.counts())
    stored = [json.loads(body)["annotation_id"] for body in receiver.bodies(Stream.ANNOTATION)]
    assert stored == [str(annotation.annotation_id) for annotation in taken]
    assert ledger.assert_once_and_in_order(receiver)
    middle, slowest = statistics.median(ready), max(ready)
    measured(
        "A1",
        f"kill -9 x {kills}, at random under load",
        "0 lost, 0 twice, ready <= 5 s",
        f"0 lost, 0 twice ({account}); ready in {middle:.1f} s, slowest {slowest:.1f} s",
    )
    assert middle < 5


def delivered(receiver: Receiver, outbox: Outbox) -> bool:
    """What people wait for is stored to the last record, and nothing is missing anywhere."""
    ledger.assert_delivered(receiver, outbox.counts())
    return True


HOG = """
open("/proc/self/oom_score_adj", "w").write("-900")
taken = []
while True:
    taken.append(b"x" * 2**20)
"""


@pytest.mark.timeout(300)
def test_killed_by_the_kernel_for_memory(
    tmp_path: Path, broker: Broker, receiver: Receiver, make_gateway: MakeGateway, scale: Scale, measured: Measured
) -> None:
    """Another program in its group takes all of it, and the kernel takes the agent."""
    kills = scale.times(1, 10)
    with limits.memory(400) as launch:
        gateway = make_gateway(broker.port, launch=launch)
        for _ in range(kills):
            gateway.start()
            connected(gateway, receiver)
            Path(f"/proc/{gateway.process.pid}/oom_score_adj").write_text("1000")
            say(gateway)
            hog = Process("hog", [*launch, sys.executable, "-c", HOG], log=tmp_path / "hog.log")
            hog.start()
            try:
                eventually(lambda: gateway.process.returncode is not None, timeout=60, message=hog.tail())
            finally:
                hog.kill()
            assert gateway.process.returncode == -signal.SIGKILL
        gateway.start()
        account = settled(receiver, gateway)
        gateway.kill()
    measured("A8", f"killed by the kernel for memory, {kills} times", "as A1", account)


def test_gone_soon_after_a_signal(gateway: Gateway, receiver: Receiver) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        gateway.start()
        gateway.ready()
        began = time.monotonic()
        gateway.process._signal(number)
        eventually(lambda: gateway.process.returncode is not None)
        assert time.monotonic() - began < 4
        assert gateway.process.returncode == 0, gateway.process.tail()


def test_a_second_agent_on_the_folder_refuses_to_start(gateway: Gateway) -> None:
    gateway.start()
    gateway.ready()
    second = gateway.command("run")
    assert second.returncode == 2
    assert "another agent runs" in second.stderr
    assert len(second.stderr.splitlines()) == 1
    assert gateway.page()


def test_a_part_that_dies_takes_the_process_with_it_and_nothing_confirmed(
    broker: Broker, fleet: Fleet, tmp_path: Path
) -> None:
    rows = 100_000  # more than lie between source and detector, so some are scored before the end is read
    gateway = Gateway(tmp_path, fleet, broker.port, speed=0, rows=rows)
    path = tmp_path / "recording.csv"
    path.write_text(path.read_text() + "\n1772020001,broken,1\n")
    ended = gateway.command("run")
    assert ended.returncode == 1
    assert f"line {rows + 2}" in ended.stderr
    counts = gateway.counts()
    assert counts[Stream.ALARM].produced >= 2
    assert counts[Stream.TELEMETRY].produced >= 1


def test_the_commands_work_on_a_stopped_agent(broker: Broker, fleet: Fleet, tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, fleet, broker.port, speed=0)
    assert gateway.command("run", "--once").returncode == 0
    status = json.loads(gateway.command("status", "--json").stdout)
    assert (status["agent"], status["step"], status["page"]) == ("stopped", "active", None)
    rows = json.loads(gateway.command("outbox", "--json").stdout)
    assert rows["alarm"]["waiting"] >= 2
    said = gateway.command("annotate", "--asset", "pump1", "--verdict", "unsure", "--by", "Ada")
    uuid.UUID(said.stdout.strip())
    rows = json.loads(gateway.command("outbox", "--json").stdout)
    assert rows["annotation"]["waiting"] == 1
    refused = gateway.command("rollback")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)


def test_the_form_confirms_once_and_refuses_other_sites(gateway: Gateway) -> None:
    gateway.start()
    gateway.ready()
    url = gateway.page()
    events = eventually(lambda: _get(f"{url}/api/events")["events"], timeout=30)
    event = AlarmEvent.model_validate(events[0])
    said = an_annotation(asset="pump1", event_id=event.event_id).model_dump(mode="json")
    where = f"{url}/api/annotations/{said['annotation_id']}"
    assert [_put(where, said) for _ in range(5)] == [201, 200, 200, 200, 200]
    assert _put(where, said | {"note": "other words"}) == 409
    assert _put(where, said, **{"Sec-Fetch-Site": "cross-site"}) == 403
    assert _put(where, said, Origin="http://elsewhere.example") == 403
    assert gateway.counts()[Stream.ANNOTATION].produced == 1
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


def test_a_page_whose_port_is_taken_does_not_stop_the_watching(gateway: Gateway) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        gateway.config.write_text(gateway.config.read_text().replace("[form]\nport = 0", f"[form]\nport = {port}"))
        gateway.start()
        eventually(lambda: "ALARM" in gateway.log, timeout=30, message=gateway.process.tail())
        url = re.findall(r"page: (\S+)/", gateway.log)[0]
        assert not url.endswith(f":{port}")
        assert http_ready(f"{url}/api/status")
