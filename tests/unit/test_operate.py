"""check and doctor: everything that is wrong at once, in words one can act on, and no secret among them."""

from __future__ import annotations

import json
import signal
import sqlite3
import threading
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from edge_agent.agent import Agent
from edge_agent.bundles import Memory
from edge_agent.cli import main
from edge_agent.clock import Clock, store_floor
from edge_agent.config import OutboxRoom, load
from edge_agent.operate.check import mistakes
from edge_agent.operate.running import COUNTED, findings
from edge_agent.outbox import Outbox
from edge_agent.people import People
from edge_agent.status import Live, Status
from models import lifeline
from models.bundle.signing import SigningKey, public_pem
from models.contract.base import ModelRef, Stream, TimeQuality
from models.contract.codec import load as load_body
from models.contract.events import FaultOfSensor, IllSensor
from models.contract.health import AssetHealth, StorageHealth
from models.contract.messages import Annotation
from models.form.signin import hashed, plain
from tests.builders import NOW, USUAL, an_event
from tests.support import eventually
from tests.tls import Ca

ILL = IllSensor(signal="vib", fault=FaultOfSensor.STUCK, since=NOW)
SECRET = "correct-horse-battery"
GOOD = """
device = "plant1.gw1"
state_dir = "state"
[form]
port = -1
[[asset]]
id = "pump1"
source = "csv"
[asset.csv]
path = "recording.csv"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = "\n".join(f"{i},{i % 7}" for i in range(200))
    (tmp_path / "recording.csv").write_text(f"time,vib\n{rows}\n")
    (tmp_path / "agent.toml").write_text(GOOD)
    return tmp_path


def doctor(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, list[str]]]:
    """Exit code, and what is not well, by part."""
    capsys.readouterr()
    code = main(["doctor", "--json", "--config", str(folder / "agent.toml")])
    found: dict[str, list[str]] = {}
    for each in json.loads(capsys.readouterr().out)["findings"]:
        if each["state"] != "ok":
            assert each["do"]
            found.setdefault(each["part"], []).append(f"{each['state']}: {each['says']}")
    return code, found


def test_a_good_configuration_has_no_mistake(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mistakes(folder / "agent.toml") == []
    assert main(["check", "--config", str(folder / "agent.toml")]) == 0
    assert "no mistake" in capsys.readouterr().out
    assert not (folder / "state").exists()  # it only looked


def test_every_mistake_is_named_at_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "no-key.pub").write_text("this is no key")
    (folder / "file").write_text("")
    (folder / "agent.toml").write_text(
        """
device = "UPPER"
heartbeat = 3
state_dir = "file"
baseline = "nowhere.bundle"
[broker]
port = 70000
[trust]
server_keys = ["no-key.pub"]
approval_keys = ["gone.pub"]
[outbox]
key_file = "gone.key"
[form]
host = "no such host"
port = 0
sign_in = "enrolled"
[[asset]]
id = "pump1"
source = "csv"
[asset.csv]
path = "gone*.csv"
[[asset]]
id = "pump 2"
source = "magic"
"""
    )
    assert main(["check", "--json", "--config", str(folder / "agent.toml")]) == 2
    said = json.loads(capsys.readouterr().out)["mistakes"]
    for place in (
        "device: ",
        "heartbeat: ",
        "baseline: ",
        "broker.port: ",
        "trust.approval_keys.0: ",
        "outbox.key_file: ",
        "form.host: ",
        "asset.0: ",
        "asset.1.id: ",
    ):
        assert [line for line in said if line.startswith(place)], f"{place} is not in {said}"
    assert len(said) == len(set(said))
    with pytest.raises(Exception, match="device"):
        load(folder / "agent.toml")


def test_a_key_that_is_none_and_a_state_folder_that_is_none_are_found(folder: Path) -> None:
    (folder / "no-key.pub").write_text("this is no key")
    (folder / "state").write_text("")
    (folder / "agent.toml").write_text(GOOD + '[trust]\nserver_keys = ["no-key.pub"]\n')
    said = mistakes(folder / "agent.toml")
    assert len(said) == 2
    assert [line.split(":")[0] for line in said] == ["trust.server_keys", "state_dir"]


def test_the_doctor_finds_what_is_wrong_and_says_what_to_do(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ca = Ca(folder / "ca")
    certificate, key = ca.certificate("gw1", until=timedelta(days=9))
    (folder / "password").write_text(SECRET)
    (folder / "password").chmod(0o644)
    (folder / "server.pub").write_bytes(public_pem(SigningKey.generate().public))
    (folder / "agent.toml").write_text(
        GOOD
        + f"""
[broker]
port = 1
ca = "{ca.path}"
certificate = "{certificate}"
key = "{key}"
username = "gw1"
password_file = "password"
[trust]
server_keys = ["server.pub"]
"""
    )
    state = folder / "state"
    outbox = Outbox(state / "outbox.db")
    outbox.put([an_event()])
    outbox.evict("alarm", 1, "oversize")  # type: ignore[arg-type]
    outbox.close()
    store_floor(state, time.time() + 3600)
    with sqlite3.connect(state / "rollout.db") as db:
        db.execute("CREATE TABLE memory (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
        db.execute("INSERT INTO memory VALUES ('current', '\"%s\"')" % ("a" * 64))
    code, found = doctor(folder, capsys)
    assert code == 2
    assert "127.0.0.1:1 does not answer" in found["broker"][0]
    assert "good for 9 days" in found["certificate"][0] or "good for 8 days" in found["certificate"][0]
    assert any("others may read" in line for line in found["keys"])
    assert "not on this disk" in found["model"][0]
    assert "1 by oversize" in found["outbox"][0]
    assert found["clock"][0].startswith("look: floor")
    assert found["agent"] == ["look: does not run"]


def test_no_secret_is_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "password").write_text(SECRET)
    config = GOOD + '[broker]\nport = 1\nusername = "gw1"\npassword_file = "password"\n'
    (folder / "agent.toml").write_text(config)
    path = str(folder / "agent.toml")
    for words in (["check"], ["doctor"], ["doctor", "--json"], ["status", "--json"], ["status"], ["clock"], ["outbox"]):
        main([*words, "--config", path])
    shown = capsys.readouterr()
    assert SECRET not in shown.out + shown.err
    assert SECRET not in repr(load(folder / "agent.toml"))
    assert main(["run", "--once", "--config", path]) == 0
    shown = capsys.readouterr()
    assert SECRET not in shown.out + shown.err
    for file in (folder / "state").rglob("*"):
        assert file.is_dir() or SECRET.encode() not in file.read_bytes(), file


def test_a_person_may_say_that_the_clock_is_right(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store_floor(folder / "state", time.time() + 3600) if (folder / "state").mkdir() is None else None
    path = str(folder / "agent.toml")
    assert main(["clock", "--json", "--config", path]) == 0
    assert json.loads(capsys.readouterr().out)["quality"] == "floor"
    assert main(["clock", "--json", "--accept", "--config", path]) == 0
    assert json.loads(capsys.readouterr().out)["quality"] != "floor"


def test_who_is_at_the_device_goes_by_its_clock_and_ends_nothing_of_others(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, path = folder / "state", str(folder / "agent.toml")
    (folder / "agent.toml").write_text(GOOD + "[outbox]\nalarm_hours = 24\n")
    outbox = Outbox(state / "outbox.db", now=lambda: time.time() - 25 * 3600)
    outbox.put([an_event()])
    outbox.close()
    ahead = time.time() + 3600  # the machine's clock has stopped an hour ago
    store_floor(state, ahead)
    say = ["annotate", "--asset", "pump1", "--verdict", "unsure", "--by", "Kim"]
    assert main([*say, "--config", path]) == 0
    with closing(Outbox.beside(state, OutboxRoom())) as outbox:
        (row,) = outbox.after(Stream.ANNOTATION, 0, 10)
        said = load_body(Annotation, row.body)
        assert said.made_at.timestamp() >= ahead
        assert said.time_quality is TimeQuality.FLOOR
        assert outbox.waiting()[Stream.ALARM] == 1  # what grows old is for the agent to say
    (folder / "agent.toml").write_text(GOOD.replace("[form]", '[form]\nsign_in = "enrolled"'))
    assert main(["enrol", "Kim", "--json", "--config", path]) == 0
    code = json.loads(capsys.readouterr().out.splitlines()[-1])["code"]
    with closing(People(state / "people.db")) as people:
        assert people.take_code(hashed(plain(code)), Clock(state).now())


class Running:
    """An agent on this configuration, in this process."""

    def __init__(self, folder: Path, more: str) -> None:
        (folder / "agent.toml").write_text(GOOD.replace("[form]", '[form]\nsign_in = "enrolled"') + more)
        self.agent = Agent(load(folder / "agent.toml"), tell=str)
        self.thread = threading.Thread(target=self.agent.run)
        self.thread.start()

    def stop(self) -> None:
        self.agent.stopping.set()
        self.thread.join(20)


def test_beside_a_running_agent_status_and_doctor_say_what_only_it_knows(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the page off, and where people sign in."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # not in this thread
    monkeypatch.setattr(lifeline, "watch", lambda: None)
    running = Running(folder, "[broker]\nport = 1\n")
    path = str(folder / "agent.toml")
    try:
        running.agent.health.counters.update({"receipts_refused": 3, "dropped_in_memory.raw": 7, "notices_told": 1})

        def live() -> dict[str, Any] | None:
            capsys.readouterr()
            assert main(["status", "--json", "--config", path]) == 0
            said = Status.model_validate_json(capsys.readouterr().out)
            assert said.agent == "running"
            return said.live.model_dump() if said.live and said.live.link.startswith("Connection") else None

        found = eventually(live, timeout=30)
        assert found["connected"] is False
        assert found["counters"]["receipts_refused"] == 3
        assert main(["status", "--config", path]) == 0
        shown = capsys.readouterr().out
        assert "Connection refused" in shown
        assert "pump1 " in shown
        code, wrong = doctor(folder, capsys)
    finally:
        running.stop()
    assert code == 2
    assert "no connection to the broker" in wrong["link"][0]
    assert any("3 receipts that are not of the server" in line for line in wrong["keys"])
    assert any("7 records given up in memory, waiting for the disk (raw)" in line for line in wrong["disk"])
    assert "notices_told" not in str(wrong)
    assert not (folder / "state/agent.sock").exists()


def test_every_trouble_that_the_agent_tells_is_found(folder: Path) -> None:
    ill = AssetHealth(state="scoring", dropped={"gap": 2}, sensors=(ILL,))
    live = Live(
        device="plant1.gw1", model=ModelRef.model_validate(USUAL), step="active", switch={}, connected=False,
        link="refused: Not authorized", budget=0.8, time_quality=TimeQuality.SYNCED,
        storage=StorageHealth(state="unusable", reason="read-only"), waiting={}, outbox={},
        assets={"pump1": AssetHealth(state="silent"), "pump2": ill},
        counters=dict.fromkeys(COUNTED, 1), uptime_s=1, rss_bytes=1,
    )  # fmt: skip
    found = list(findings(live))
    assert {(f.part, f.state) for f in found if f.state != "ok"} == {
        ("link", "broken"), ("budget", "look"), ("sensor", "look"), ("disk", "broken"), ("source", "broken"),
        *((part, "look") for part, *_ in COUNTED.values()),
    }  # fmt: skip
    assert all(f.do for f in found if f.state != "ok")
    assert any("2 gap" in f.says for f in found)
    assert any("pump2: vib stuck" in f.says for f in found)
    source = "".join(path.read_text() for path in (Path(__file__).parents[2] / "edge_agent").rglob("*.py"))
    for counter in COUNTED:
        assert f'"{counter}' in source.replace(f'"{counter}": (', ""), f"nobody counts {counter}"


def test_what_the_disk_alone_says_is_found_with_the_agent_stopped(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = folder / "state"
    Outbox(state / "outbox.db").close()
    (state / "outbox.aside-1.db").write_text("")
    with closing(Memory(state)) as memory:
        last = {"reason": "could not go back: nothing is left"}
        memory.set(step="inconsistent", last=last, falls=3, failed=["a" * 64])
    code, wrong = doctor(folder, capsys)
    assert code == 2
    assert "could not go back" in wrong["model"][0]
    assert any("fallen 3 times" in line for line in wrong["agent"])
    assert "outbox.aside-1.db" in wrong["outbox"][0]
