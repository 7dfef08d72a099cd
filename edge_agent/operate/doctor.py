"""What is wrong with this device, and what to do about it. Looks, and changes nothing; works beside a running agent."""

from __future__ import annotations

import shutil
import socket
import sqlite3
import ssl
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final, NamedTuple

from cryptography import x509

from edge_agent import certificate as station
from edge_agent import local, state
from edge_agent.bundles import BundleStore, Memory
from edge_agent.clock import Clock
from edge_agent.config import Config
from edge_agent.errors import AgentError, StateTooNew
from edge_agent.operate.finding import Finding, State
from edge_agent.operate.running import findings
from edge_agent.outbox import Outbox
from edge_agent.rollout.report import problem_of
from edge_agent.status import Live
from models.contract.base import TimeQuality

SOON_DAYS: Final = 30
DAY_S: Final = 86400.0
LITTLE_DISK: Final = 64 * 2**20


def examine(config: Config, mistakes: list[str], page: str | None, running: bool) -> list[Finding]:
    """All findings, in the order in which one would look."""
    case = _Case(config, page, running, local.ask(config.state_dir) if running else None)
    found = [Finding("config", "broken", line, "correct the file") for line in mistakes]
    found = found or [Finding("config", "ok", "no mistake")]
    for look in LOOKS:
        try:
            found += look(case)
        except StateTooNew:
            pass  # `_state` has told
        except (AgentError, OSError, sqlite3.Error, ValueError) as exc:
            found.append(Finding(look.__name__.strip("_"), "broken", str(exc), "see docs/operate.md"))
    return found


def verdict(found: list[Finding]) -> int:
    """The exit code: 0 nothing is wrong, 1 something to look at, 2 something is broken."""
    states = {finding.state for finding in found}
    return 2 if "broken" in states else 1 if "look" in states else 0


class _Case(NamedTuple):
    config: Config
    page: str | None
    running: bool
    live: dict[str, Any] | None


def _agent(case: _Case) -> Iterator[Finding]:
    if case.running and not case.live:
        yield Finding("agent", "look", "runs and does not answer", "look again; edge-agent doctor as the agent's user")
    elif case.running:
        yield Finding("agent", "ok", f"runs{f', page at {case.page}' if case.page else ''}")
    else:
        yield Finding("agent", "look", "does not run", "systemctl start edge-agent; its log says why not")


def _clock(case: _Case) -> Iterator[Finding]:
    clock = Clock(case.config.state_dir)
    quality = clock.quality
    if quality is TimeQuality.SYNCED:
        yield Finding("clock", "ok", "kept by time synchronisation")
    elif quality is TimeQuality.UNKNOWN:
        yield Finding("clock", "look", "nobody can tell whether it is kept", "install chrony or systemd-timesyncd")
    else:
        says = (
            f"{quality.value}: the system says {time.strftime('%F %T', time.gmtime())} UTC, records {clock.now():%F %T}"
        )
        yield Finding("clock", "look", says, "install chrony or systemd-timesyncd, or let it reach its server")


def _disk(case: _Case) -> Iterator[Finding]:
    place = case.config.state_dir
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    room = case.config.outbox.total_bytes
    says = f"{free / 2**20:.0f} MiB free for up to {room / 2**20:.0f} MiB of records"
    if free < LITTLE_DISK:
        yield Finding("disk", "broken", says, f"make room on the disk of {place}")
    elif free < room:
        yield Finding("disk", "look", says, "lower outbox.total_bytes or make room")
    else:
        yield Finding("disk", "ok", says)


def _state(case: _Case) -> Iterator[Finding]:
    try:
        state.refuse_newer(case.config.state_dir)
    except StateTooNew as exc:
        yield Finding("state", "broken", str(exc), "docs/operate.md, Another version")
        return
    for name in ("outbox.db", "rollout.db"):
        path = case.config.state_dir / name
        if not path.exists():
            yield Finding("state", "look", f"there is no {name} yet", "it is made at the first start")
            continue
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as db:
            said = db.execute("PRAGMA quick_check").fetchone()[0]
        if said == "ok":
            yield Finding("state", "ok", f"{name} is sound")
        else:
            yield Finding("state", "broken", f"{name}: {said}", "restart the agent: it saves what it can")


def _model(case: _Case) -> Iterator[Finding]:
    if not (case.config.state_dir / "rollout.db").exists():
        return
    with closing(Memory(case.config.state_dir)) as memory:
        current, problem, denied = memory.get("current"), problem_of(memory), len(memory.get("failed", []))
        falls = memory.get("falls", 0)
    if falls > 1:
        says = f"the agent has fallen {falls} times in a row: crash, out of memory, watchdog or power"
        yield Finding("agent", "look", says, "journalctl -u edge-agent; does it begin with a new model?")
    if problem:
        yield Finding("model", "broken", f"what runs is not what should: {problem}", "roll a release out, or back")
    if denied:
        yield Finding("model", "ok", f"{denied} that this device has sent away: edge-agent model list says why")
    if current is None:
        return
    try:
        ref = BundleStore(case.config.state_dir / "bundles").load(current).ref
        yield Finding("model", "ok", f"{ref.name} {ref.version} is whole")
    except AgentError as exc:
        yield Finding("model", "broken", str(exc), "the agent runs the one before; roll the release out again")


def _outbox(case: _Case) -> Iterator[Finding]:
    if not (case.config.state_dir / "outbox.db").exists():
        return
    if aside := sorted(path.name for path in case.config.state_dir.glob("outbox.aside-*.db")):
        do = "docs/outbox.md; remove them when the server's ledger closes"
        yield Finding("outbox", "look", f"set aside, with what could not be saved: {', '.join(aside)}", do)
    with closing(Outbox.beside(case.config.state_dir, case.config.outbox)) as outbox:
        counts = outbox.counts()
    for stream, count in counts.items():
        room = getattr(case.config.outbox, f"{stream.value}_bytes", None)
        lost = {cause: sum(b - a + 1 for a, b in ranges) for cause, ranges in count.evicted.items()}
        if any(lost.values()):
            told = ", ".join(f"{n} by {cause}" for cause, n in lost.items())
            yield Finding("outbox", "look", f"{stream.value}: given up {told}", "more room, or a better link")
        elif room and count.waiting_bytes > 0.8 * room:
            says = f"{stream.value}: {count.waiting_bytes / 2**20:.1f} of {room / 2**20:.0f} MiB are full"
            yield Finding("outbox", "look", says, "the server does not confirm: see broker, and the server's ingest")
    waiting = sum(b - a + 1 for count in counts.values() for a, b in count.waiting)
    yield Finding("outbox", "ok", f"{waiting} records wait")


def _broker(case: _Case) -> Iterator[Finding]:
    broker = case.config.broker
    if broker is None:
        yield Finding("broker", "ok", "none is configured: everything works on the device alone")
        return
    where = f"{broker.host}:{broker.port}"
    try:
        with socket.create_connection((broker.host, broker.port), timeout=5) as plain:
            if context := broker.tls():
                with context.wrap_socket(plain, server_hostname=broker.host) as secure:
                    days = _days_left(str((secure.getpeercert() or {})["notAfter"]), Clock(case.config.state_dir))
                    yield _lasts("broker", f"{where} answers; its certificate", days, "renew it on the broker")
            else:
                yield Finding("broker", "ok", f"{where} answers")
    except ssl.SSLCertVerificationError as exc:
        yield Finding(
            "broker",
            "broken",
            f"{where}: {exc.verify_message}",
            "is broker.ca its issuer, and the clock right?",
        )
    except ssl.SSLError as exc:
        yield Finding(
            "broker",
            "broken",
            f"{where}: {exc.reason or exc}",
            "does this port speak TLS, and know this device?",
        )
    except OSError as exc:
        yield Finding("broker", "broken", f"{where} does not answer: {exc}", "name, port, cable, firewall")


def _certificates(case: _Case) -> Iterator[Finding]:
    broker = case.config.broker
    if broker and broker.certificate:
        certificate = x509.load_pem_x509_certificate(broker.certificate.read_bytes())
        days = (certificate.not_valid_after_utc.timestamp() - Clock(case.config.state_dir).time()) / DAY_S
        yield _lasts("certificate", "this device's certificate", days, "have a new one made")

    state_dir = case.config.state_dir
    if case.config.form.names and station.files(state_dir).chain.exists():
        days = (station.ends(state_dir).timestamp() - Clock(state_dir).time()) / DAY_S
        yield _lasts("certificate", "the page's certificate", days, "edge-agent certificate: a running agent renews it")


def _keys(case: _Case) -> Iterator[Finding]:
    broker, trust = case.config.broker, case.config.trust
    private = [broker.key, broker.password_file] if broker else []
    for path in filter(None, [*private, case.config.outbox.key_file]):
        if path.stat().st_mode & 0o077:
            yield Finding("keys", "look", f"others may read {path}", f"chmod 600 {path}")
    if broker and not trust.server_keys:
        yield Finding(
            "keys",
            "look",
            "no trust.server_keys: no receipt is believed, so nothing is ever forgotten",
            "add the server's public key",
        )
    else:
        yield Finding("keys", "ok", f"{len(trust.server_keys)} of servers, {len(trust.approval_keys)} of approvers")


def _running(case: _Case) -> Iterator[Finding]:
    if case.live:
        yield from findings(Live.model_validate(case.live))


LOOKS: Final = (_agent, _clock, _disk, _state, _model, _outbox, _broker, _certificates, _keys, _running)


def _lasts(part: str, what: str, days: float, do: str) -> Finding:
    state: State = "broken" if days <= 0 else "look" if days < SOON_DAYS else "ok"
    return Finding(
        part,
        state,
        f"{what} is good for {days:.0f} days" if days > 0 else f"{what} has expired",
        "" if state == "ok" else do,
    )


def _days_left(not_after: str, clock: Clock) -> float:
    return (ssl.cert_time_to_seconds(not_after) - clock.time()) / DAY_S
