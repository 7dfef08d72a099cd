"""A thread that does the same again and again: what every standing job of the server is."""

from __future__ import annotations

import logging
import threading

log = logging.getLogger(__name__)


class Loop:
    """`turn` every `every_s` seconds until `stop`. A turn that fails is logged, and the next one finds the same rows:
    whatever a loop knows is in the database."""

    def __init__(self, name: str, every_s: float) -> None:
        self._every_s = every_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=10)

    def turn(self) -> object:
        """One turn. Raises what the database raises."""
        raise NotImplementedError

    def failed(self) -> None:
        """After a turn that raised."""

    def _run(self) -> None:
        while not self._stopping.wait(self._every_s):
            try:
                self.turn()
            except Exception:  # the database is away, say
                log.exception("%s loop", self._thread.name)
                self.failed()
