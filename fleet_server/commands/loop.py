"""The thread that sends commands. Several servers may run it: a row is locked by the one that sends it."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from fleet_server.loop import Loop
from fleet_server.store import commands
from fleet_server.store.commands import CommandRow
from fleet_server.store.pool import Pool
from models.bundle.signing import SigningKey
from models.contract import topics
from models.contract.codec import dump
from models.contract.commands import Command, CommandNote

POLL_S: Final = 1.0
FIRST_WAIT: Final = timedelta(seconds=5)  # for an answer of a device that is there; then twice as long, and so on
AT_ONCE: Final = 200


class Publish(Protocol):
    """Hand a payload to the broker. False: there is no connection, it was not taken."""

    def __call__(self, topic: str, payload: bytes, *, retain: bool) -> bool: ...


class CommandLoop(Loop):
    """Every second: close what is past its deadline, sign and send what is due."""

    def __init__(self, pool: Pool, publish: Publish, key: SigningKey, first_wait: timedelta = FIRST_WAIT) -> None:
        super().__init__("commands", POLL_S)
        self._pool, self._publish, self._key, self._first_wait = pool, publish, key, first_wait
        self._again = threading.Event()

    def republish(self) -> None:
        """Everything open with the next turn: to be called whenever the broker was connected. Does not block."""
        self._again.set()

    def turn(self) -> int:
        """One turn; how many were sent. Raises what the database raises."""
        everything, began, n = self._again.is_set(), datetime.now(UTC), 0
        with self._pool.connection() as conn:
            commands.expire(conn, began)
        while True:
            # Noted after they were sent: killed in between, they are sent twice, and a device does each once.
            with self._pool.connection() as conn:
                rows = commands.due(conn, began, self._first_wait, AT_ONCE, everything=everything)
                sent = []
                for row in rows:
                    if not self._publish(topics.down(row.device_id, "command"), self._note(row), retain=False):
                        break
                    sent.append(row.command_id)
                if sent:
                    commands.set_sent(conn, sent, datetime.now(UTC))
            n += len(sent)
            if len(sent) < len(rows):
                return n  # no connection: all of it again with the next one
            if len(rows) < AT_ONCE:
                if everything:
                    self._again.clear()
                return n

    def _note(self, row: CommandRow) -> bytes:
        command = Command(
            device=row.device_id,
            command_id=row.command_id,
            sequence=row.sequence,
            issued_at=row.issued_at,
            deadline=row.deadline,
            latest=row.latest,
            body=row.body,
        )
        return dump(CommandNote(command=self._key.sign(command)))
