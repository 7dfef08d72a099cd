"""The pieces of a bundle on their way to this disk: in any order, twice, across restarts, never more than announced."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edge_agent.bundles import BundleStore
from edge_agent.clock import Clock
from edge_agent.files import write_whole
from models.bundle.files import digest
from models.contract.messages import Assignment, Chunk

log = logging.getLogger(__name__)

FETCH_AHEAD: Final = 8  # pieces asked for at once
FETCH_AGAIN_S: Final = 5.0  # without a piece that was asked for; a slow link that brings them is left in peace
FETCH_TRIES: Final = 3  # whole downloads that did not give the approved bytes


class Download:
    """One bundle at a time."""

    def __init__(
        self, folder: Path, store: BundleStore, fetch: Callable[[str, tuple[int, ...]], None], clock: Clock
    ) -> None:
        self._folder, self._store, self._fetch, self._clock = folder, store, fetch, clock
        self.refused = 0  # pieces that can be none of the bundle's
        self._asked: set[int] = set()
        self._asked_at, self.tries, self.began = -math.inf, 0, self._clock.monotonic()

    def begin(self, sha256: str) -> None:
        """Another bundle, or the same anew. The pieces of any other are in the way."""
        self._asked_at, self.tries, self.began = -math.inf, 0, self._clock.monotonic()
        self.drop(but=sha256)

    def turn(self, assignment: Assignment) -> bool:
        """Ask for what is missing, put together what is whole. True: the bundle is in the store."""
        sha256 = assignment.model.sha256
        try:
            if self._store.has(sha256):
                self.drop()
                return True
            count = math.ceil(assignment.size / assignment.chunk_bytes)
            missing = [i for i in range(count) if not (self._folder / sha256 / str(i)).exists()]
            if not missing:
                return self._join(sha256, count)
        except OSError as exc:  # a full disk is no reason to stop watching machines
            log.error("bundle can not be stored", extra={"reason": str(exc)})
            self._asked_at = self._clock.monotonic()
            return False
        if self._clock.monotonic() - self._asked_at > FETCH_AGAIN_S:
            self._asked_at, self._asked = self._clock.monotonic(), set(missing[:FETCH_AHEAD])
            self._fetch(sha256, tuple(missing[:FETCH_AHEAD]))
        return False

    def take(self, assignment: Assignment, chunk: Chunk) -> None:
        """Keep a piece, if it is one."""
        count = math.ceil(assignment.size / assignment.chunk_bytes)
        last = assignment.size - (count - 1) * assignment.chunk_bytes
        size = last if chunk.index == count - 1 else assignment.chunk_bytes
        if chunk.index >= count or len(chunk.data) != size:
            self.refused += 1
            return
        folder = self._folder / assignment.model.sha256
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / str(chunk.index)
            if not path.exists():
                write_whole(path, chunk.data)
        except OSError as exc:
            log.error("piece of a bundle can not be stored", extra={"reason": str(exc)})
            return
        if chunk.index in self._asked:  # else it came twice, and is no reason to ask
            self._asked.remove(chunk.index)
            self._asked_at = self._clock.monotonic() if self._asked else -math.inf  # all of it is here: ask for more

    def drop(self, but: str | None = None) -> None:
        """Forget all pieces, except those of one bundle."""
        for folder in self._folder.glob("*"):
            if folder.name != but:
                shutil.rmtree(folder, ignore_errors=True)

    def _join(self, sha256: str, count: int) -> bool:
        data = b"".join((self._folder / sha256 / str(i)).read_bytes() for i in range(count))
        if digest(data) == sha256:
            self._store.save(data)
            self.drop()
            return True
        self.drop()
        self.tries += 1
        return False
