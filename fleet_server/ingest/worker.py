"""The thread that stores: batch in, transaction, then acknowledgement to the broker, then receipts to the devices.

Without a commit there is neither: whatever happens before it, broker and agents still have every message. While the
database is away the batch is tried again and again, and the broker stops sending at its receive maximum.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final, Protocol

from fleet_server.ingest.batch import Marks, store, store_one_by_one
from fleet_server.ingest.mailbox import Arrived, Mailbox
from fleet_server.ingest.reading import Read, read_all
from fleet_server.ingest.receipts import receipts
from fleet_server.store import counters, devices
from fleet_server.store.pool import Pool, Trouble, trouble
from models.bundle.signing import SigningKey
from models.contract import topics
from models.contract.codec import Unreadable, load
from models.contract.messages import Fetch, Session
from models.crash_points import crash_point

log = logging.getLogger(__name__)

FIRST_WAIT_S: Final = 0.1
LONGEST_WAIT_S: Final = 5.0


class Broker(Protocol):
    """What the worker needs of the MQTT client."""

    def acknowledge(self, messages: Sequence[Arrived]) -> None: ...

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool: ...


class Worker:
    """Takes batches from the mailbox until it is stopped."""

    def __init__(self, pool: Pool, mailbox: Mailbox, broker: Broker, signer: SigningKey, fetches: FetchDesk) -> None:
        self._pool, self._mailbox, self._broker = pool, mailbox, broker
        self._signer, self._fetches = signer, fetches
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ingest", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """After the batch at hand, or without it if the database is away."""
        self._stopping.set()
        self._mailbox.close()
        if self._thread.ident is not None:
            self._thread.join(timeout=15)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.is_set():
            if batch := self._mailbox.take(timeout_s=1.0):
                self.work(batch)

    def work(self, batch: Sequence[Arrived]) -> None:
        """One batch, to its end."""
        messages, sessions = self._to_store([each for each in batch if not each.shed])
        shed = sum(each.shed for each in batch)
        if messages or sessions or shed:
            marks = self._commit(messages, sessions, shed)
            if marks is None:
                return
            crash_point("ingest.after_commit")
            self._broker.acknowledge(batch)
            keys = [each.key for each in messages if each.key]
            for topic, payload in receipts(keys, marks, self._signer):
                self._broker.publish(topic, payload)
            crash_point("ingest.after_receipt")
        else:
            self._broker.acknowledge(batch)

    def _to_store(self, batch: Sequence[Arrived]) -> tuple[list[Read], list[Session]]:
        """Records and what connections say; without requests for pieces, which are not stored, and retained messages,
        which are nobody's news."""
        found, sessions = [], []
        for each in batch:
            where = topics.parse(each.topic)
            if each.retained:
                log.warning("retained message ignored", extra={"topic": each.topic})
            elif where is not None and where.name == "fetch":
                self._fetches.ask(where.device, each.payload)
            elif where is not None and where.name == "session":
                sessions += _session(where.device, each.payload)
            else:
                found += read_all(each.topic, each.payload)
        return found, sessions

    def _commit(self, messages: Sequence[Read], sessions: Sequence[Session], shed: int = 0) -> Marks | None:
        """None: stopped while the database was away."""
        wait_s, one_by_one = FIRST_WAIT_S, False
        while not self._stopping.is_set():
            try:
                with self._pool.connection() as conn:
                    at = datetime.now(UTC)
                    with conn.transaction():
                        marks = (store_one_by_one if one_by_one else store)(conn, messages, at)
                        for said in sessions:
                            devices.set_session(conn, said, at)
                        if shed:
                            counters.add(conn, {"shed": shed})
                        crash_point("ingest.before_commit")
                return marks
            except Exception as exc:
                kind = trouble(exc)
                if kind is Trouble.INPUT:
                    if one_by_one:
                        raise  # a fault of the program: end it, loudly
                    one_by_one = True
                    continue
                log.warning(
                    "batch not stored, trying again", extra={"n": len(messages), "reason": str(exc).strip()[:200]}
                )
                self._stopping.wait(wait_s * random.uniform(0.5, 1.0))  # noqa: S311 - not all servers at once
                wait_s = FIRST_WAIT_S if kind is Trouble.AGAIN else min(2 * wait_s, LONGEST_WAIT_S)
        return None


def _session(device: str, payload: bytes) -> list[Session]:
    """What a device's own connection says, or nothing."""
    try:
        said = load(Session, payload)
        if said.device != device:
            raise Unreadable(f"says it is of {said.device}")
    except Unreadable as exc:
        log.warning("session message refused", extra={"device": device, "reason": str(exc)})
        return []
    return [said]


class FetchDesk:
    """Requests for pieces of a bundle, in a thread of their own: they must not hold up what has to be stored."""

    def __init__(self, handle: Callable[[str, str, Sequence[int]], object]) -> None:
        self._handle = handle
        self._waiting: queue.Queue[Fetch | None] = queue.Queue(maxsize=200)
        self._thread = threading.Thread(target=self._run, name="fetches", daemon=True)
        self.refused = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with self._waiting.mutex:
            self._waiting.queue.clear()
        self._waiting.put(None)
        if self._thread.ident is not None:
            self._thread.join(timeout=10)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def ask(self, device: str, payload: bytes) -> None:
        """Take a request that came on this device's topic. One that is unreadable, foreign or too many is counted: the
        device asks again."""
        try:
            fetch = load(Fetch, payload)
            if fetch.device != device:
                raise Unreadable(f"says it is from {fetch.device}")
            self._waiting.put_nowait(fetch)
        except (Unreadable, queue.Full) as exc:
            self.refused += 1
            log.warning("fetch refused", extra={"device": device, "reason": str(exc) or "too many"})

    def _run(self) -> None:
        while (fetch := self._waiting.get()) is not None:
            try:
                self._handle(fetch.device, fetch.sha256, fetch.indexes)
            except Exception:
                log.exception("fetch not answered")
