"""One transaction: ledger, rows, quarantine, marks. A message that breaks it is found and put aside; the others are
stored."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime

from fleet_server.feedback import intake
from fleet_server.ingest.handlers import HANDLERS, Batch, assets_of
from fleet_server.ingest.reading import Read
from fleet_server.store import annotations as spoken
from fleet_server.store import counters, devices, ledger, quarantine
from fleet_server.store.ledger import Key, StreamKey
from fleet_server.store.pool import Connection, Trouble, trouble
from fleet_server.store.quarantine import Aside
from models.contract.codec import Unreadable

log = logging.getLogger(__name__)

Marks = dict[StreamKey, int]


def store(conn: Connection, messages: Sequence[Read], at: datetime) -> Marks:
    """Store messages in the caller's transaction; how far each stream concerned is complete.

    Raises:
        Exception: as the database or a handler raised it; nothing may be committed then.
    """
    batch = Batch(conn, at)
    asides: list[Aside] = []
    put_aside: list[Key] = []
    keys = {each.key for each in messages if each.key}
    new = ledger.enter(conn, keys, at)
    if keys:
        devices.touch(conn, list({key.device for key in keys}), at)
    _meet_assets(batch, [each for each in messages if each.key in new])
    for each in messages:
        reason = each.reason
        if each.key is not None:
            if each.key not in new:
                batch.counts["duplicates"] += 1
                continue
            new.discard(each.key)  # the same message may stand twice in one batch
            if each.body is not None:
                try:
                    HANDLERS[type(each.body)](batch, each.key, each.body)
                    continue
                except Unreadable as exc:
                    reason = str(exc)
            put_aside.append(each.key)
        asides.append(each.aside(reason))
    batch.flush()
    if put_aside:
        ledger.set_quarantined(conn, put_aside)
    if asides:
        quarantine.insert(conn, asides, at)
        batch.counts["quarantined"] += len(asides)
        if rotated := quarantine.rotate(conn):
            batch.counts["quarantine_rotated"] += rotated
            log.error("quarantine full, the oldest rotated out", extra={"n": rotated})
    if batch.counts:
        counters.add(conn, batch.counts)
    return ledger.advance_marks(conn, (StreamKey(*key[:3]) for key in keys))


def store_one_by_one(conn: Connection, messages: Sequence[Read], at: datetime) -> Marks:
    """The same, with a savepoint each: whatever cannot be stored is put aside with what went wrong."""
    marks: Marks = {}
    for each in messages:
        try:
            with conn.transaction():
                marks |= store(conn, [each], at)
        except Exception as exc:
            if trouble(exc) is not Trouble.INPUT:
                raise
            first = (str(exc).strip().splitlines() or [""])[0]
            log.error("message put aside", extra={"topic": each.topic, "reason": first}, exc_info=exc)
            reason = f"could not be stored: {type(exc).__name__}: {first}"
            with conn.transaction():
                marks |= store(conn, [Read(each.topic, each.payload, each.key, None, reason)], at)
    return marks


def _meet_assets(batch: Batch, messages: Sequence[Read]) -> None:
    """Machines first: what a person says of one in the same batch must find it."""
    known = {asset: each.key.device for each in messages if each.key and each.body for asset in assets_of(each.body)}
    if known:
        for asset in devices.touch_assets(batch.conn, known, batch.at):
            for subject_id in spoken.waiting_for_asset(batch.conn, asset):
                intake.reconsider(batch.conn, subject_id, batch.at)
