"""The server: pool, schema, MQTT client, ingest, releases, learning and web, joined here and stopped in order.

A part that dies ends the process, for the service manager to start again: half a server that looks alive is worse.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

import uvicorn

from fleet_server.alarms.escalation import EscalationLoop
from fleet_server.commands.loop import CommandLoop
from fleet_server.config import Config
from fleet_server.errors import BadConfig, NotReady
from fleet_server.feedback.news import NewsLoop
from fleet_server.ingest.mailbox import Mailbox
from fleet_server.ingest.subscriber import Subscriber
from fleet_server.ingest.worker import FetchDesk, Worker
from fleet_server.learning.loop import LearningLoop
from fleet_server.release import registry
from fleet_server.release.loop import ReleaseLoop
from fleet_server.release.publisher import Publisher
from fleet_server.store.migrate import migrate
from fleet_server.store.pool import connect, open_pool
from fleet_server.web.deps import Site
from fleet_server.web.site import build
from models import lifeline
from models.bundle.signing import SigningKey

log = logging.getLogger(__name__)

CHECK_S: Final = 0.5
NAMED_THREADS: Final = ("release", "learning", "commands", "news", "alarms")


class Part(Protocol):
    def start(self) -> None: ...

    def stop(self) -> None: ...


class WebServer:
    """uvicorn in a thread: signals are the main thread's."""

    def __init__(self, site: Site) -> None:
        web = site.config.web
        self._server = uvicorn.Server(
            uvicorn.Config(
                build(site),
                host=web.host,
                port=web.port,
                log_config=None,
                log_level="warning",
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=3,
                server_header=False,
            )
        )
        self._thread = threading.Thread(target=self._server.run, name="web", daemon=True)

    def start(self) -> None:
        """Returns when it listens. Raises NotReady: the port is taken."""
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                config = self._server.config
                raise NotReady(f"cannot listen on {config.host}:{config.port}: is it taken?")
            time.sleep(0.01)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=5)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def address(self) -> str:
        host, port = self._server.servers[0].sockets[0].getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def serve(config: Config) -> int:
    """Run until SIGTERM or SIGINT (0), or until a part has died (1).

    Raises:
        FleetError: it cannot start, and why.
    """
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    lifeline.watch()
    try:
        key = SigningKey.read(config.keys.server)
    except ValueError as exc:
        raise BadConfig(f"keys.server: {exc}") from exc
    with connect(config.database, wait_s=60) as conn:
        found = migrate(conn)
    log.info(
        "database ready", extra={"postgresql": found.postgresql, "timescaledb": found.edition, "schema": found.schema}
    )
    pool = open_pool(config.database)
    started: list[Part] = []
    try:
        with pool.connection() as conn:
            registry.register_shipped(conn)
        mailbox = Mailbox()
        subscriber = Subscriber(config.broker, mailbox)
        publisher = Publisher(pool, subscriber.publish)
        release = ReleaseLoop(config, pool, publisher)
        subscriber.when_connected(release.republish)
        commands = CommandLoop(pool, subscriber.publish, key)
        subscriber.when_connected(commands.republish)
        fetches = FetchDesk(publisher.handle_fetch)
        worker = Worker(pool, mailbox, subscriber, key, fetches)
        news = NewsLoop(pool)
        escalation = EscalationLoop(config.alarms, pool)
        web = WebServer(Site(config, pool, lambda: subscriber.connected))
        # Stopped in reverse: first nobody asks any more, then what was received is stored, then the connection goes.
        parts: tuple[Part, ...] = (
            subscriber,
            fetches,
            worker,
            release,
            commands,
            news,
            escalation,
            LearningLoop(config, pool),
            web,
        )
        for part in parts:
            started.append(part)
            part.start()
        log.info("serving", extra={"address": web.address})
        alive: dict[str, Callable[[], bool]] = {
            "broker connection": lambda: subscriber.alive,
            "fetches": lambda: fetches.alive,
            "ingest": lambda: worker.alive,
            "web": lambda: web.alive,
            **{name: _runs(name) for name in NAMED_THREADS},
        }
        while not stopping.wait(CHECK_S):
            if dead := [name for name, is_alive in alive.items() if not is_alive()]:
                log.error("a part has died, ending", extra={"parts": ", ".join(dead)})
                return 1
        log.info("stopping")
        return 0
    finally:
        for part in reversed(started):
            part.stop()
        pool.close()


def _runs(name: str) -> Callable[[], bool]:
    return lambda: any(thread.name == name for thread in threading.enumerate())
