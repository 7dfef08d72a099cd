"""The whole loop on one machine, with real processes and embedded defaults: `make demo`.

Starts PostgreSQL, a broker, the fleet server, five pumps, three technicians and five agents; then plays the people who
approve and roll out, through the same commands they would use; last it ships a version that does harm.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from models.bundle.signing import SigningKey
from simulators import fleet
from simulators.embedded.broker import Kind, embedded_broker
from simulators.embedded.postgres import EmbeddedPostgres
from simulators.embedded.processes import Lifeline, Process, free_port, http_ready
from simulators.harmful import make_harmful

N_AGENTS = 5
MODEL = "pump"
MAX_ENDS = 20  # of one process; who kills more often wants it gone
DEADLINE_S = 300.0  # for the whole story; a machine that is much slower has another problem


class Stopped(Exception):
    """Ctrl-C or SIGTERM: not an error."""


class Demo:
    """The processes, the figures they show, and the terminal."""

    def __init__(self, home: Path, seed: int, broker: Kind = "auto") -> None:
        self.home, self.seed = home, seed
        self.began = time.monotonic()
        self.stopping = threading.Event()
        self.lifeline = Lifeline()
        self.processes: list[Process] = []
        self.ends: Counter[str] = Counter()
        self.postgres = EmbeddedPostgres(home / "postgres")
        self.broker = embedded_broker(home / "broker", prefer=broker)
        self.url = ""
        self.server_toml = home / "server.toml"
        self.approval_key = home / "approver" / "approval.pem"  # never in the server's folder: it is a person's

    # -- what people see ----------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.began:6.1f} s  {text}", flush=True)

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=10) as response:  # noqa: S310 - our own server
            return json.load(response)

    def until(self, what: str, condition: Callable[[], Any]) -> Any:
        """Wait for it, with a line of figures every few seconds. Raises TimeoutError, Stopped."""
        last = time.monotonic()
        while True:
            if self.stopping.wait(0.25):
                raise Stopped
            self.revive()
            try:
                if found := condition():
                    return found
            except OSError:
                pass  # the server is being started again
            if time.monotonic() - self.began > DEADLINE_S:
                raise TimeoutError(f"gave up waiting for: {what}")
            if time.monotonic() - last > 4:
                last = time.monotonic()
                self.say(f"  ... {what}: {self.figures()}")

    def figures(self) -> str:
        try:
            s = self.get("/api/summary")
        except OSError:
            return "the server does not answer"
        labels = s["labels"]
        versions = ", ".join(f"v{version} on {n}" for version, n in sorted(s["versions"].items()))
        return (
            f"{s['windows']} windows, {s['alarms']} alarms, {s['annotations']} annotations, "
            f"labels {labels.get('accepted', 0)} accepted {labels.get('held', 0)} held, {versions or 'no agent yet'}"
        )

    # -- processes ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Database and broker at once, then everything else; each waits for what it needs by itself."""
        self._take_home()
        for folder in (self.home, self.home / "approver", self.home / "logs"):
            folder.mkdir(parents=True, exist_ok=True)
        self.say("starting PostgreSQL and the broker")
        with ThreadPoolExecutor() as pool:
            database, port = pool.submit(self.postgres.start), pool.submit(self.broker.start)
            dsn, broker_port = database.result(), port.result()
        SigningKey.generate().write(self.approval_key)
        SigningKey.generate().write(self.home / "server.pem")
        web_port = free_port(8077)
        self.url = f"http://127.0.0.1:{web_port}"
        self.server_toml.write_text(_server_config(dsn, broker_port, web_port), encoding="utf-8")
        os.chmod(self.server_toml, 0o600)  # the database's password is in it
        members = fleet.make(
            self.home / "agents",
            [free_port(8081 + i) for i in range(N_AGENTS)],
            broker_port=broker_port,
            approval=self.approval_key.with_name("approval.pem.pub"),
            server=self.home / "server.pem.pub",
        )
        python, truth = [sys.executable, "-m"], self.home / "truth.jsonl"
        assets = [m.asset for m in members]
        server = [*python, "fleet_server", "serve", "--config", str(self.server_toml)]
        plant = [*python, "simulators", "plant", "--port", str(broker_port), "--truth", str(truth)]
        people = [*python, "simulators", "technicians", "--server", self.url, "--truth", str(truth)]
        seed = ["--seed", str(self.seed)]
        compile_kernels(self.say)
        self.say(f"starting the fleet server, {N_AGENTS} pumps, {N_AGENTS} agents and the technicians")
        self._launch("server", server)
        calm = self.home / "agents-have-learned"
        self._launch("plant", [*plant, *seed, "--quiet", "2", "--calm-until", str(calm), "--assets", *assets])
        self._launch(f"agent-{members[0].device}", members[0].argv())
        self.until("the server to be ready", lambda: http_ready(self.url + "/ready"))
        self.say(f"page:  {self.url}/   (the fleet)     {members[0].form}/   (the first agent's own)")
        for member in members[1:]:
            self._launch(f"agent-{member.device}", member.argv())
        self._launch("technicians", [*people, *seed, "--forms", *(f"{m.asset}={m.form}" for m in members)])
        self.until("first data", lambda: self.get("/api/summary")["devices"] > 0)
        self.say("first data: a heartbeat is in the database, by way of outbox and broker")
        self.until("all agents", lambda: self.get("/api/summary")["devices"] == N_AGENTS)
        self.say(f"all {N_AGENTS} agents are heard; each learns what is normal on its own pump")
        self.until("the agents to learn", lambda: all(map(has_learned, members)))
        calm.touch()
        self.say("all have learned; from now on loads change and bearings wear")

    def _take_home(self) -> None:
        """An empty folder of our own. Raises RuntimeError: another demo runs in it."""
        self.home.parent.mkdir(parents=True, exist_ok=True)
        self._lock = self.home.with_name(self.home.name + ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise RuntimeError(f"another demo runs in {self.home}; give this one another --home") from exc
        shutil.rmtree(self.home, ignore_errors=True)

    def _launch(self, name: str, argv: list[str]) -> None:
        process = Process(name, argv, log=self.home / "logs" / f"{name}.log", lifeline=self.lifeline)
        process.start()
        self.processes.append(process)

    def revive(self) -> None:
        """Start again what was killed: on a device or a server that is the service manager's work."""
        for service in (self.broker, self.postgres):
            if service.ended:
                self.say(f"{service.name} has ended: starting it again")
                service.start()
        for process in self.processes:
            if process.returncode is not None:
                self.ends[process.name] += 1
                if self.ends[process.name] > MAX_ENDS:
                    raise RuntimeError(f"{process.name} keeps ending: {process.tail(600)}")
                self.say(f"{process.name} ended with {process.returncode}: starting it again")
                process.start()

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
        for process in reversed(self.processes):
            process.stop()
        self.broker.stop()
        self.postgres.stop()

    def server_command(self, *words: str) -> str:
        """One `fleet-server` command, as an operator would type it; what it printed."""
        self.say("$ fleet-server " + " ".join(words).replace(str(self.home), self.home.name))
        argv = [sys.executable, "-m", "fleet_server", *words, "--config", str(self.server_toml)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise RuntimeError(f"fleet-server {words[0]} failed: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout.strip()

    # -- the story ----------------------------------------------------------------------------------------------

    def story(self) -> dict[str, Any]:
        """The loop, turned once, and a harmful version sent away. Returns the summary."""
        self.until("a first alarm", lambda: self.get("/api/summary")["alarms"] > 0)
        self.say("first alarm: the baseline, version 1, sees that something is unusual")
        self.until("technicians to annotate", lambda: self.get("/api/summary")["labels"].get("accepted", 0) > 0)
        self.say("first label accepted: two thirds of the annotators' weight agree")
        run = self.until("a retraining to pass its gate", self._candidate)
        self.say(f"retrained: version {run['version']}. Gate: {run['reason']}")
        self.server_command(
            "release", "approve", str(run["version"]), "--key", str(self.approval_key), "--by", "Olga (demo)"
        )
        self._roll_out(run["version"])
        self.until("every agent on the new version", lambda: self._all_verified(run["version"]))
        self.say(f"all {N_AGENTS} agents run version {run['version']}, verified by their own trial")
        harmful = self._ship_harmful(run["version"])
        rollout = self.until("the harmful version to be sent away", lambda: self._stopped(harmful))
        self.say(f"rollout of version {harmful} stopped by itself: {rollout['reason']}")
        self.until("every agent back on the good version", lambda: self._all_verified(run["version"]))
        self.say(f"all {N_AGENTS} agents run version {run['version']} again; version {harmful} is barred")
        ledger = self.until("the ledger to close", self._closed_ledger)
        return self._summary(run["version"], harmful, ledger)

    def _candidate(self) -> dict[str, Any] | None:
        runs = self.get("/api/runs")["runs"]
        return next((run for run in runs if run["state"] == "candidate"), None)

    def _roll_out(self, version: int) -> None:
        for line in self.server_command("rollout", "start", str(version), "--waves", f"1,{N_AGENTS - 1}").splitlines():
            self.say("  " + line)

    def _ship_harmful(self, good: int) -> int:
        """Its version: the next free one, and the one after it if the server retrained in this moment."""
        path = self.home / "approver" / "harmful.bundle"
        source = self.home / "approver" / "good.bundle"
        self.server_command("release", "export", str(good), "--out", str(source))
        while True:
            harmful: int = 1 + max(model["version"] for model in self.get("/api/models")["models"])
            self.say(f"now a version {harmful} that would alarm on everything, approved by mistake")
            path.write_bytes(make_harmful(source.read_bytes(), harmful))
            try:
                self.server_command("release", "import", str(path))
                break
            except RuntimeError as exc:
                if "is registered with other bytes" not in str(exc):
                    raise
        why = "the demo wants to see it refused"
        key = ("--key", str(self.approval_key), "--by", "Olga (demo)")
        self.server_command("release", "approve", str(harmful), *key, "--despite-gate", why)
        self._roll_out(harmful)
        return harmful

    def _all_verified(self, version: int) -> bool:
        devices = self.get("/api/devices")["devices"]
        good = [
            d for d in devices if d["model_version"] == version and d["step"] in ("active", "rolled_back", "rejected")
        ]
        return len(good) == N_AGENTS

    def _stopped(self, version: int) -> dict[str, Any] | None:
        rollouts = self.get("/api/rollouts")["rollouts"]
        return next((r for r in rollouts if r["version"] == version and r["state"] == "stopped"), None)

    def _closed_ledger(self) -> dict[str, Any] | None:
        ledger: dict[str, Any] = self.get("/api/ledger")
        return ledger if ledger["closed"] else None

    def _summary(self, good: int, harmful: int, ledger: dict[str, Any]) -> dict[str, Any]:
        bad = {model["sha256"] for model in self.get("/api/models")["models"] if model["version"] == harmful}
        steps = self.get("/api/steps?limit=1000")["steps"]
        ever_verified = any(step["sha256"] in bad and step["step"] == "active" for step in steps)
        s = self.get("/api/summary")
        return {
            "loop_closed": ledger["closed"] and not ever_verified,
            "seconds": round(time.monotonic() - self.began, 1),
            "windows": s["windows"],
            "alarms": s["alarms"],
            "annotations": s["annotations"],
            "labels": s["labels"],
            "version": good,
            "harmful_version": harmful,
            "harmful_verified": ever_verified,
            "ledger": ledger["totals"],
        }


def compile_kernels(say: Callable[[str], None]) -> None:
    """Once, before five agents would each do it: the result is kept on disk."""
    program = "from models.features.extract import warm_up; warm_up()"
    compiler = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.DEVNULL)
    try:
        compiler.wait(2)
    except subprocess.TimeoutExpired:
        say("compiling the feature kernels, the first time only")
        compiler.wait()


def has_learned(member: fleet.Member) -> bool:
    """True once this agent scores."""
    with urllib.request.urlopen(member.form + "/api/status", timeout=5) as response:  # noqa: S310 - our own agent
        return bool(json.load(response)["assets"][member.asset]["state"] == "scoring")


def _server_config(dsn: str, broker_port: int, web_port: int) -> str:
    return f"""\
database = "{dsn}"

[broker]
port = {broker_port}

[keys]
server = "server.pem"
approval = ["approver/approval.pem.pub"]

[web]
port = {web_port}

# Everything below is made fast for the demo; the defaults are meant for a plant.
[retrain]
model = "{MODEL}"
min_new_labels = 20
min_reference = 200
cool_down_s = 15
check_every_s = 1

[rollouts]
soak_s = 1
poll_s = 0.3

[rollouts.trial]
windows = 24
max_seconds = 60
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--once", action="store_true", help="end when the loop has closed; the last line is JSON")
    parser.add_argument("--home", type=Path, default=Path(".demo"), help="folder for everything it makes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--broker",
        choices=("auto", "mosquitto", "iotcore"),
        default="auto",
        help="auto: mosquitto where it is installed, else the embedded one",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """The demo."""
    demo = Demo(args.home.resolve(), args.seed, args.broker)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: demo.stopping.set())
    try:
        demo.start()
        summary = demo.story()
        demo.say(f"the loop has closed. {demo.figures()}")
        if not args.once:
            demo.say(f"it goes on running: look at {demo.url}/ , kill a process, annotate an alarm. Ctrl-C ends it.")
            while not demo.stopping.wait(0.5):
                demo.revive()
            raise Stopped
    except Stopped:
        demo.say("stopping")
        return 0
    except (TimeoutError, RuntimeError) as exc:
        demo.say(f"failed: {exc}  (logs: {demo.home / 'logs'})")
        print(json.dumps({"loop_closed": False, "reason": str(exc)}), flush=True)
        return 1
    finally:
        demo.stop()
    print(json.dumps(summary), flush=True)
    return 0 if summary["loop_closed"] else 1
