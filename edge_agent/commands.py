"""What the server orders, done once: signed, for this device, in time, and reported upstream whatever came of it.

Another part takes part by `register`. Its handler runs inside the transaction that notes the command as done and puts
the report into the outbox: what it writes through the given connection happens exactly once; anything else it does may
happen twice if the power goes in between. It must be quick and leave the outbox alone, which is locked meanwhile.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, TypeVar

from edge_agent.clock import SYSTEM, Clock
from edge_agent.errors import CommandRefused, OutboxFailed
from edge_agent.outbox import Outbox
from models.bundle.signing import NotTrusted, PublicKeys
from models.contract.commands import Command, CommandBody, CommandNote, read_body
from models.contract.ids import new_trace_id
from models.contract.messages import Body, CommandResult, Outcome

log = logging.getLogger(__name__)

KEEP: Final = 5000  # commands remembered; an older one that came again would be past its deadline
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS command (
    command_id TEXT PRIMARY KEY, sequence INTEGER NOT NULL, latest TEXT, outcome TEXT NOT NULL, reason TEXT NOT NULL
)
"""
B = TypeVar("B", bound=CommandBody)
Handler = Callable[[B, sqlite3.Connection], str | None]  # a word on what was done; raises CommandRefused


class Commands:
    """Takes notes from the uplink's thread."""

    def __init__(
        self,
        device: str,
        server: PublicKeys | None,
        outbox: Outbox,
        counters: Counter[str],
        clock: Clock = SYSTEM,
    ) -> None:
        self._device, self._server, self._outbox, self._counters, self._clock = device, server, outbox, counters, clock
        self._handlers: dict[type[CommandBody], Handler[Any]] = {}
        outbox.put([], within=lambda db: db.execute(_SCHEMA))

    def register(self, kind: type[B], handler: Handler[B]) -> None:
        """This part does commands of that kind. Before the uplink starts."""
        self._handlers[kind] = handler

    def take(self, note: CommandNote) -> None:
        """Do what is ordered and report it. Never raises: what can not be noted on disk is not done; it comes again."""
        try:
            if self._server is None:
                raise NotTrusted("no server key is configured")
            command = self._server.open(Command, note.command)
            if command.device != self._device:
                raise NotTrusted(f"the command is for {command.device}")
        except NotTrusted as exc:
            self._counters["commands_refused"] += 1
            log.warning("command refused", extra={"reason": str(exc)})
            return
        report: list[Body] = []
        try:
            self._outbox.put(report, within=lambda db: report.append(self._answer(db, command)))
        except (OutboxFailed, sqlite3.Error) as exc:
            self._counters["commands_not_noted"] += 1
            log.error("command not done, it could not be noted", extra={"reason": str(exc)})

    # -- inside the outbox's transaction ------------------------------------------------------------------------

    def _answer(self, db: sqlite3.Connection, command: Command) -> CommandResult:
        key = str(command.command_id)
        kind = _plain(str(command.body.get("kind")), 80)
        found = db.execute("SELECT outcome, reason FROM command WHERE command_id = ?", (key,)).fetchone()
        if found is None:
            found = self._do(db, command)
            log.info("command", extra={"kind": kind, "outcome": found[0].value, "reason": found[1]})
            db.execute(
                "INSERT INTO command (command_id, sequence, latest, outcome, reason) VALUES (?, ?, ?, ?, ?)",
                (key, command.sequence, command.latest, *found),
            )
            db.execute(
                "DELETE FROM command WHERE sequence <= (SELECT sequence FROM command ORDER BY sequence DESC"
                " LIMIT 1 OFFSET ?)",
                (KEEP,),
            )
        return CommandResult(
            trace_id=new_trace_id(),
            made_at=self._clock.now(),
            time_quality=self._clock.quality,
            command_id=command.command_id,
            command=kind,
            outcome=Outcome(found[0]),
            reason=found[1],
        )

    def _do(self, db: sqlite3.Connection, command: Command) -> tuple[Outcome, str]:
        try:
            body = read_body(command.body)
        except ValueError as exc:
            return Outcome.REFUSED, _plain(str(exc), 500)
        # By the time that has surely passed: a clock that leapt ahead, or never heard of the time, ends nothing.
        if self._clock.at_least() > command.deadline.timestamp():
            return Outcome.EXPIRED, f"it is past {command.deadline:%Y-%m-%d %H:%M:%S} here"
        (newest,) = db.execute(
            "SELECT max(sequence) FROM command WHERE latest = ? AND outcome = ?", (command.latest, Outcome.DONE)
        ).fetchone()
        if newest and newest > command.sequence:
            return Outcome.SUPERSEDED, "a newer one was done before"
        handler = self._handlers.get(type(body))
        if handler is None:
            return Outcome.REFUSED, "this device has no part that does this"
        db.execute("SAVEPOINT handler")
        try:
            outcome, reason = Outcome.DONE, handler(body, db) or ""
        except CommandRefused as exc:
            outcome, reason = Outcome.REFUSED, str(exc)
        except Exception as exc:  # a handler's fault is reported, and stops neither the uplink nor the next command
            log.exception("command failed")
            outcome, reason = Outcome.FAILED, f"{type(exc).__name__}: {exc}"
        if outcome is not Outcome.DONE:
            db.execute("ROLLBACK TO handler")
        db.execute("RELEASE handler")
        return outcome, _plain(reason, 500)


def _plain(text: str, limit: int) -> str:
    """What a message may carry, whatever somebody wrote into a command or an error."""
    return "".join(c if c.isprintable() else " " for c in text)[:limit]
