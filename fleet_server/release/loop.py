"""The thread that moves rollouts on and sends what they order. One server at a time; state is in the rows only."""

from __future__ import annotations

import threading

from fleet_server.config import Config
from fleet_server.loop import Loop
from fleet_server.release import rollouts
from fleet_server.release.lead import Lead
from fleet_server.release.publisher import Publisher
from fleet_server.store.pool import Pool
from models.bundle.signing import SigningKey


class ReleaseLoop(Loop):
    """Every `poll_s`: advance the rollouts, send new offers."""

    def __init__(self, config: Config, pool: Pool, publisher: Publisher) -> None:
        super().__init__("release", config.rollouts.poll_s)
        self._rules, self._pool, self._publisher = config.rollouts, pool, publisher
        self._key = SigningKey.read(config.keys.server)
        self._lead = Lead(pool, "release")
        self._again = threading.Event()

    def stop(self) -> None:
        """Ends the thread; what was begun is in the database."""
        super().stop()
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

    def failed(self) -> None:
        self._again.set()
