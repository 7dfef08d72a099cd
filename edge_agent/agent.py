"""Starts the parts, joins them with queues, stops them in order. A part that dies ends the process."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

from edge_agent import footprint, sensors, state, systemd
from edge_agent.alarms.desk import AlarmDesk
from edge_agent.annotate import KEEP, Journal
from edge_agent.attachments import Attachments
from edge_agent.clock import Clock
from edge_agent.commands import Commands
from edge_agent.config import Asset, Config, Trust
from edge_agent.detect import Detector, Pipeline
from edge_agent.errors import AgentError, AlreadyRunning, BundleRejected
from edge_agent.files import write_whole
from edge_agent.health import Health, rss_bytes
from edge_agent.local import Local
from edge_agent.notify import Notifier
from edge_agent.outbox import Outbox, Writer
from edge_agent.page import Desk, Serving
from edge_agent.people import People, check_pin, hash_pin
from edge_agent.rollout.examine import examine
from edge_agent.rollout.machine import Rollout
from edge_agent.rollout.report import for_heartbeat, for_status
from edge_agent.sensors.silence import Silence
from edge_agent.status import Kept, Live
from edge_agent.uplink import Uplink
from edge_agent.vitals import Pulse, Vitals, no_pulse
from models import lifeline
from models.baseline import shipped
from models.bundle.files import BadBundle, Bundle, unpack
from models.bundle.signing import NotTrusted, PublicKeys
from models.contract.base import SeqRange, Stream
from models.contract.commands import (
    FormNews,
    LiftSuppression,
    RequestReport,
    SendAgain,
    SetBudget,
    SetMaintenance,
    TakeAction,
    TakeVerdict,
)
from models.contract.events import AlarmEvent, FaultOfSensor, Phase, SensorFault
from models.contract.health import StreamCount
from models.contract.ids import new_trace_id
from models.contract.messages import Body
from models.form.signin import SignIn
from models.form.speech import SENSORS, sensor_says
from models.windows import default_window

log = logging.getLogger(__name__)

BLOCKS: Final = 32  # between a source and the detector; a recording waits, a machine's source drops and counts
FLUSH_S: Final = 5.0  # at the end, for what is not on disk yet
STARTED_S: Final = 4.0  # after so long, what only starting needed is not needed any more
SWITCH_S: Final = 0.0005  # how long a thread that computes in Python keeps the others, and a finished window, waiting
AWAY_S: Final = 2.0  # between two turns of the main loop: it was stopped, or the machine slept
LIVE: Final = ("log_level", "heartbeat_s", "notify")  # settings that change on SIGHUP


class Agent:
    """One device."""

    def __init__(
        self,
        config: Config,
        *,
        once: bool = False,
        tell: Callable[[str], None] = print,
        again: Callable[[], Config] | None = None,
        given: Mapping[str, sensors.Source] | None = None,
    ) -> None:
        """`again` reads the settings anew, on SIGHUP. `given`: sources by asset, instead of those of the settings.
        Raises AgentError: another agent runs here, or something it needs is not usable."""
        self.config, self.device, self._once, self._tell = config, config.device, once, tell
        self._again, self._to_reload = again, threading.Event()
        self.stopping = threading.Event()
        self._started = False
        self._failed: str | None = None
        self._lock = _lock(config.state_dir)
        state.enter(config.state_dir)
        self.clock = Clock(config.state_dir)
        # Ages go by the time that has surely passed: a clock that leaps a year ahead evicts nothing.
        self._outbox = Outbox(config.state_dir / "outbox.db", config.outbox, self.clock.at_least)
        self.health = Health(config.heartbeat_s, self.clock)
        self._vitals = Vitals(self.clock)
        self.notifier = self._make_notifier(config)
        self._writer = Writer(self._outbox, self.health.counters, self._told, config.outbox.memory_bytes)
        self.journal = Journal(self._outbox, self._writer.put)
        self.alarms = AlarmDesk(self._outbox, self.journal, config.alarms, self.clock, self.health.counters)
        self._sources = given or {
            a.id: sensors.open_source(a.id, a.settings, a.resample, config.broker) for a in config.asset
        }
        self._blocks: queue.Queue[tuple[str, sensors.Block | None, float | None]] = queue.Queue(BLOCKS)
        self._silences = {
            a.id: Silence(self.clock.monotonic(), self._sources[a.id].period_s, a.silent_after_s) for a in config.asset
        }
        self._looked_at = self.clock.monotonic()
        baseline = first_bundle(config)
        pipelines = [self._pipeline(asset, baseline) for asset in config.asset]
        self.detector = Detector(pipelines, self._put, self.clock)
        self._uplink: Uplink | None = None
        self._serving: Serving | None = None
        self.rollout = Rollout(
            config.device,
            config.state_dir,
            _keys(config.trust.approval_keys, config.trust),
            _keys(config.trust.server_keys, None),
            self.detector,
            self._put,
            self._fetch,
            self.clock,
            examine,
        )
        self.rollout.start_up(baseline)
        self.alarms.serve(
            self.detector,
            [(p.asset.id, [s.name for s in p.signals], 3600 * p.spec.rate_hz / p.spec.hop) for p in pipelines],
        )
        self._pick_up_alarms()
        server_keys = _keys(config.trust.server_keys, None)
        self.commands = Commands(config.device, server_keys, self._outbox, self.health.counters, self.clock)
        self.commands.register(FormNews, self.journal.note_news)
        self.commands.register(TakeAction, self.alarms.take_action)
        self.commands.register(TakeVerdict, self.alarms.take_verdict)
        self.commands.register(SetMaintenance, self.alarms.take_maintenance)
        self.commands.register(LiftSuppression, self.alarms.take_lift)
        self.commands.register(RequestReport, lambda _body, _db: self.health.ask())
        if config.broker:
            self._uplink = Uplink(
                config.device,
                config.broker,
                server_keys,
                self._outbox,
                self.rollout.offer,
                self.commands.take,
                self.health.counters,
                clock=self.clock,
                settings=config.uplink,
                put=self._put,
            )
            uplink = self._uplink
            self.commands.register(SetBudget, uplink.budget.set)
            self.commands.register(SendAgain, lambda _body, _db: uplink.send_again())

    def run(self) -> int:
        """Until a signal, the end of the recordings (`once`), or the death of a part. Returns the exit code."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self.stopping.set())
        if self._again:
            signal.signal(signal.SIGHUP, lambda *_: self._to_reload.set())
        lifeline.watch()
        sys.setswitchinterval(SWITCH_S)
        if self.config.form.port >= 0:
            self._serving = Serving(self.desk(), self.config.form, self.config.state_dir)
            for server, name in zip(self._serving.servers, ("page", "page-help"), strict=False):
                self._start(name, server.loop)
            url = self._serving.page.url
            self._tell(f"page: {url}/")
            write_whole(self.config.state_dir / "page.json", json.dumps({"url": url}).encode())
        readers = [self._start(f"source-{a.id}", partial(self._read, a)) for a in self.config.asset]
        self._local = Local(self.config.state_dir, self.status)
        self._start("local", self._local.loop)
        self._start("writer", self._writer.loop)
        self._start("rollout", self.rollout.loop)
        self._start("alarms", self.alarms.loop)
        self._start_notifier()
        if self._uplink:
            self._start("uplink", self._uplink.loop)
        systemd.notify(systemd.READY, f"STATUS={self._line()}")
        try:
            self._work(readers)
        finally:
            self._close()
            self._lock.close()
        if self._failed:
            print(f"edge-agent: {self._failed}", file=sys.stderr)
            return 1
        return 0

    def desk(self) -> Desk:
        """What the pages need."""
        room = self.config.outbox.attachment_bytes
        attachments = Attachments(self.config.state_dir / "attachments", self._outbox, room, self.clock)
        sign_in = None
        if self.config.form.sign_in == "enrolled":
            people = People(self.config.state_dir / "people.db")
            sign_in = SignIn(people, timedelta(days=self.config.form.session_days), hash_pin, check_pin)
        return Desk(self, self.journal, attachments, self.alarms, self.detector.health, self.clock.now, sign_in)

    def status(self) -> dict[str, Any]:
        """What runs here now: `live` of docs/status.md."""
        uplink = self._uplink
        live = Live(
            device=self.device,
            model=self.rollout.running,
            step=self.rollout.step.value,
            switch=for_status(self.rollout.memory),
            connected=uplink.connected if uplink else None,
            link=uplink.problem if uplink else "",
            budget=uplink.budget.used_share() if uplink else None,
            time_quality=self.clock.quality,
            storage=self._outbox.storage(self._writer.buffered),
            waiting={stream.value: n for stream, n in self._outbox.waiting().items()},
            outbox={stream.value: _counted(count) for stream, count in self._outbox.counts().items()},
            assets=self.detector.health(),
            counters=dict(self.health.counters + self.clock.counters),
            uptime_s=round(self.health.uptime_s, 1),
            rss_bytes=rss_bytes(),
        )
        return live.model_dump(mode="json")

    # -- the work -----------------------------------------------------------------------------------------------

    def _work(self, readers: list[threading.Thread]) -> None:
        """Blocks to the detector, until it is time to stop."""
        told_end = False
        while not self.stopping.is_set():
            try:
                asset, block, since = self._blocks.get(timeout=0.2)
            except queue.Empty:
                if not told_end and self._blocks.empty() and not any(r.is_alive() for r in readers):
                    told_end = True
                    for name, pipeline in self.detector.pipelines.items():
                        pipeline.quiet = "ended" if self._sources[name].ends else pipeline.quiet
                    self.detector.flush(force=True)
                    self._tell("the recordings have ended")
                    if self._once:
                        return
            else:
                if block is not None and block.times.size:
                    self._silences[asset].heard(self.clock.monotonic())
                    if block.begins:
                        self._tell(f"{asset}: {block.begins}")
                        self.detector.begin_recording(asset)
                    if block.late:  # history says nothing of how the machine is now
                        self.health.counters[f"late_samples.{asset}"] += block.times.size
                    else:
                        self.detector.feed(asset, block.times, block.values, block.quality, since)
            self.clock.look()
            self.detector.flush()
            if not self._started and self.health.uptime_s > STARTED_S:
                self._started = True
                footprint.shrink()
            self._look_for_silence()
            self._beat()
            if self._serving:
                self._serving.look(self.clock.now())
            if self._to_reload.is_set():
                self._reload()
            if part := self._vitals.look(self._line):
                self._failed = f"{part} has made no progress for too long"
                log.error("a part stands still", extra={"part": part})
                return

    def _pick_up_alarms(self) -> None:
        """Alarms that were open when the agent ended: a machine's goes on under its id, a recording's is over."""
        for episode in self.journal.episodes(KEEP):
            asset = episode.event.asset
            pipeline = self.detector.pipelines.get(asset)
            if not episode.open:
                if episode.cleared_at and pipeline and not self._sources[asset].ends:
                    pipeline.rest(episode.event, episode.cleared_at)
                continue
            if pipeline is None or self._sources[asset].ends or not pipeline.resume(episode.event):
                over = {"phase": Phase.CLEARED, "made_at": self.clock.now(), "cleared_by": "source"}
                self._put([episode.event.model_copy(update=over)])

    def _read(self, asset: Asset, _pulse: Pulse) -> None:
        """A source's thread. It may wait long for its machine: that it is silent is for `_look_for_silence` to tell."""
        source = self._sources[asset.id]
        for block in source.blocks():
            since = None if source.ends else time.perf_counter()  # a recording is there long before its turn
            while source.ends and self._writer.crowded and not self.stopping.wait(0.01):
                pass  # a recording waits for the disk, a machine does not
            while not self.stopping.is_set():
                try:
                    self._blocks.put((asset.id, block, since), timeout=0.2)
                    break
                except queue.Full:
                    continue
            self.health.counters[f"blocks_dropped.{asset.id}"] = source.dropped
            self.health.counters[f"blocks_unreadable.{asset.id}"] = source.unreadable
            for what, n in source.counts.items():
                self.health.counters[f"{what}.{asset.id}"] = n

    def _look_for_silence(self) -> None:
        now = self.clock.monotonic()
        away = now - self._looked_at
        self._looked_at = now
        for asset, silence in self._silences.items():
            if away > AWAY_S:  # this process stood still, not the sources
                silence.stood_still(away)
            if self._sources[asset].ends or not silence.falls(now):
                continue
            self.detector.pipelines[asset].quiet = "silent"
            fault = SensorFault(
                trace_id=new_trace_id(),
                made_at=self.clock.now(),
                asset=asset,
                fault=FaultOfSensor.SILENT,
                since=self.clock.now() - timedelta(seconds=silence.lasts_s(now)),
                detail=f"nothing for {silence.limit_s:.3g} s",
            )
            self._put([fault])

    def _beat(self, force: bool = False) -> None:
        if self.health.due(self._mark) or force:
            self._writer.put_made(Stream.HEALTH, self._heartbeat)

    def _mark(self) -> object:
        """What the server should hear of soon: states and kinds of trouble, not how far counters have come."""
        assets = tuple((name, a.state, a.alarm) for name, a in self.detector.health().items())
        running, step, sequence = self.rollout.running, self.rollout.step, self.rollout.memory.get("sequence", 0)
        return running, step, sequence, assets, self._outbox.disk.state, frozenset(self.health.counters)

    def _heartbeat(self) -> list[Body]:
        """Made in the writer's thread, just before it is written: its counts are those of the moment."""
        self.health.counters["offers_refused"] = self.rollout.refused_offers
        beat = self.health.beat(
            self.rollout.running,
            self.rollout.step,
            self.rollout.memory.get("sequence", 0),
            self._outbox.counts(),
            self.detector.health(),
            self.detector.latencies(),
        )
        disk = {"ended": self._outbox.ended(), "storage": self._outbox.storage(self._writer.buffered)}
        return [beat.model_copy(update=disk | for_heartbeat(self.rollout.memory, self.rollout.problem))]

    def _fetch(self, sha256: str, indexes: tuple[int, ...]) -> None:
        if self._uplink:
            self._uplink.fetch(sha256, indexes)

    def _put(self, bodies: Sequence[Body]) -> None:
        quality = self.clock.quality
        self.alarms.put([body.model_copy(update={"time_quality": quality}) for body in bodies])

    def _told(self, bodies: Sequence[Body]) -> None:
        """On disk now, or as much as there can be."""
        self.notifier.tell(bodies)
        for body in bodies:
            if line := line_for(body):
                self._tell(line)

    # -- parts --------------------------------------------------------------------------------------------------

    def _reload(self) -> None:
        """Settings anew: what can change meanwhile does, the rest is named. Bad ones change nothing."""
        assert self._again
        self._to_reload.clear()
        systemd.notify(systemd.RELOADING, f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            new = self._again()
            changed = [name for name in Config.model_fields if getattr(new, name) != getattr(self.config, name)]
            taken: dict[str, Any] = {name: getattr(new, name) for name in LIVE if name in changed}
            notifier = self._make_notifier(new)
        except AgentError as exc:
            self.health.counters["reloads_refused"] += 1
            log.error("settings not taken, the old ones hold", extra={"reason": str(exc)})
        else:
            self.config = self.config.model_copy(update=taken)
            logging.getLogger().setLevel(new.log_level.upper())
            self.health.every(new.heartbeat_s)
            if "notify" in taken:
                self.notifier.stop()
                self.notifier = notifier
                self._start_notifier()
            waits = ", ".join(sorted({*changed} - {*taken})) or "none"
            log.warning("settings read again", extra={"taken": ", ".join(taken) or "none", "after_a_restart": waits})
        systemd.notify(systemd.READY)

    def _make_notifier(self, config: Config) -> Notifier:
        return Notifier(self.device, config.notify, config.broker, self.health.counters, line_for, self.clock)

    def _start_notifier(self) -> None:
        for place in self.notifier.places:
            self._start(place.name, place.loop)

    def _pipeline(self, asset: Asset, bundle: Bundle) -> Pipeline:
        source = self._sources[asset.id]
        spec = asset.window or bundle.manifest.window or default_window(source.rate_hz)
        return Pipeline(
            asset, source.signals, spec, self.config.state_dir / "references", self.clock, self.config.alarms
        )

    def _start(self, name: str, loop: Callable[[Pulse], None]) -> threading.Thread:
        pulse = no_pulse if name.startswith(("source-", "notify-")) else self._vitals.pulse(name)

        def guarded() -> None:
            try:
                loop(pulse)
                self._vitals.over(name)
            except Exception as exc:  # whatever it is: the process must not go on half alive
                log.exception("a part has died", extra={"part": name})
                self._failed = f"{name} has died: {exc}"
                self.stopping.set()

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        thread.start()
        return thread

    def _line(self) -> str:
        """For `systemctl status`."""
        assets = self.detector.health()
        alarms = sum(asset.alarm for asset in assets.values())
        return f"{len(assets)} machines, {alarms} in alarm, {sum(self._outbox.waiting().values())} records wait"

    def _close(self) -> None:
        systemd.notify(systemd.STOPPING)
        self.stopping.set()
        for source in self._sources.values():
            source.stop()
        self.detector.flush(force=True)
        self._beat(force=True)
        self.alarms.stop()
        self.notifier.stop()
        self.rollout.stop(clean=self._failed is None)
        self._writer.flush(FLUSH_S)
        if self._uplink:
            self._uplink.stop()
        if self._serving:
            self._serving.stop()
        self._local.stop()
        self.clock.close()
        self._writer.stop()
        for thread in threading.enumerate():
            if thread.name.startswith(("source-", "notify-", "rollout", "alarms", "uplink", "page", "local", "writer")):
                thread.join(3.0)


def first_bundle(config: Config) -> Bundle:
    """The bundle of the configuration, else the shipped one. Raises BundleRejected."""
    try:
        return unpack(config.baseline.read_bytes()) if config.baseline else shipped().bundle
    except (OSError, BadBundle, NotTrusted) as exc:
        raise BundleRejected("the first bundle", str(exc)) from exc


def line_for(body: Body) -> str | None:
    """One line for the terminal, for what a person wants to know at once."""
    if isinstance(body, AlarmEvent) and body.phase is not Phase.UPDATED:
        if body.sensors and body.family == SENSORS:
            said = " ".join(sensor_says(each, "en") for each in body.sensors)
            return f"{body.window_end:%H:%M:%S} {body.asset} SENSOR {body.phase.value} {said}"
        drivers = ", ".join(f"{d.feature} {d.value:.3g} (usual {d.usual:.3g})" for d in body.drivers[:3])
        word = "ALARM" if body.phase is Phase.RAISED else "clear"
        kind = f" {body.fault_class}" if body.fault_class and body.phase is Phase.RAISED else ""
        return f"{body.window_end:%H:%M:%S} {body.asset} {word}{kind} score {body.score:.2f}  {drivers}"
    if isinstance(body, SensorFault):
        return f"{body.since:%H:%M:%S} {body.asset} SENSOR {body.fault.value} {body.signal or ''} {body.detail}"
    return None


def _counted(count: StreamCount) -> Kept:
    def n(ranges: Iterable[SeqRange]) -> int:
        return sum(last - first + 1 for first, last in ranges)

    evicted = {cause: n(ranges) for cause, ranges in count.evicted.items()}
    waiting = n(count.waiting)
    return Kept(produced=count.produced, waiting=waiting, waiting_bytes=count.waiting_bytes, evicted=evicted)


def _keys(paths: Sequence[Path], trust: Trust | None) -> PublicKeys | None:
    try:
        return PublicKeys.read(paths, trust.approval_threshold if trust else 1) if paths else None
    except ValueError as exc:
        raise AgentError(str(exc)) from exc


def _lock(state_dir: Path) -> IO[str]:
    state_dir.mkdir(parents=True, exist_ok=True)
    file = (state_dir / "agent.lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        raise AlreadyRunning(f"another agent runs on {state_dir}; a device has one") from exc
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file
