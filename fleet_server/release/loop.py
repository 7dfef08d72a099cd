"""The thread that moves rollouts on and sends what they order. One server at a time; state is in the rows only."""

from __future__ import annotations

import logging
import threading

from fleet_server.config import Config
from fleet_server.release import rollouts
from fleet_server.release.lead import Lead
from fleet_server.release.publisher import Publisher
from fleet_server.store.pool import Pool
from models.bundle.signing import SigningKey

log = logging.getLogger(__name__)


class ReleaseLoop:
    """Every `poll_s`: advance the rollouts, send new offers."""

    def __init__(self, config: Config, pool: Pool, publisher: Publisher) -> None:
        self._rules, self._pool, self._publisher = config.rollouts, pool, publisher
        self._key = SigningKey.read(config.keys.server)
        self._lead = Lead(pool, "release")
        self._stopping = threading.Event()
        self._again = threading.Event()
        self._thread = threading.Thread(target=self._run, name="release", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; what was begun is in the database."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=10)
        self._lead.give_up()

    def republish(self) -> None:
        """All retained offers with the next turn: to be called whenever the broker was connected. Does not block."""
        self._again.set()

    def turn(self) -> None:
        """One turn. Raises what the database raises."""
        if not self._lead.held():
            return
        with self._pool.connection() as conn:
            rollouts.advance(conn, self._rules, self._key)
        if self._again.is_set():
            self._again.clear()
            self._publisher.republish()
        self._publisher.publish_new()

    def _run(self) -> None:
        while not self._stopping.wait(self._rules.poll_s):
            try:
                self.turn()
            except Exception:  # the database is away, say: the next turn finds the same rows
                log.exception("release loop")
                self._again.set()
