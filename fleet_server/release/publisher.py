"""Rows to retained offers, and bundles to pieces, through a port that the MQTT client fills."""

from __future__ import annotations

import base64
import logging
from collections.abc import Sequence
from typing import Final, Protocol

from fleet_server.store import bundles, rollouts
from fleet_server.store.pool import Pool
from models.contract import topics
from models.contract.codec import dump
from models.contract.messages import Chunk, Offer, Signed

log = logging.getLogger(__name__)

CHUNK_BYTES: Final = 65536  # as Assignment.chunk_bytes says by default
MAX_CHUNKS: Final = 64  # for one request; who wants more asks again


class Publish(Protocol):
    """Hand a payload to the broker. False: there is no connection, it was not taken."""

    def __call__(self, topic: str, payload: bytes, *, retain: bool) -> bool: ...


class Publisher:
    """What a device hears of releases. Everything here can be said twice: a device takes each sequence once."""

    def __init__(self, pool: Pool, publish: Publish) -> None:
        self._pool, self._publish = pool, publish

    def publish_new(self) -> int:
        """Send the offers that were never sent; how many were."""
        return self._send(unpublished_only=True)

    def republish(self) -> int:
        """Send each device's newest offer again: the broker may have forgotten what it kept. After every connect."""
        return self._send(unpublished_only=False)

    def _send(self, *, unpublished_only: bool) -> int:
        with self._pool.connection() as conn:
            waiting = rollouts.offers(conn, unpublished_only=unpublished_only)
        sent = 0
        for row in waiting:
            offer = Offer(
                assignment=Signed.model_validate(row.assignment), approval=Signed.model_validate(row.approval)
            )
            if not self._publish(topics.down(row.device_id, "offer"), dump(offer), retain=True):
                break
            # Noted after it was sent: killed in between, it is sent twice, which is harmless, and never not at all.
            with self._pool.connection() as conn:
                rollouts.set_published(conn, row.device_id, row.sequence)
            sent += 1
        return sent

    def handle_fetch(self, device: str, sha256: str, indexes: Sequence[int]) -> int:
        """Send pieces of a bundle to a device that was ordered to run it, and to no other; how many were sent."""
        with self._pool.connection() as conn:
            row = bundles.by_sha256(conn, sha256) if rollouts.ordered(conn, device) == sha256 else None
            if row is None or row.state == "barred":
                log.warning("fetch refused", extra={"device": device, "sha256": sha256})
                return 0
            count = -(-row.size // CHUNK_BYTES)
            wanted = sorted({index for index in indexes if index < count})[:MAX_CHUNKS]
            sent = 0
            for index in wanted:
                data = bundles.piece(conn, sha256, index * CHUNK_BYTES, CHUNK_BYTES)
                assert data is not None, "registered bundles are never deleted"
                chunk = Chunk(sha256=sha256, index=index, count=count, data=base64.b64encode(data))
                if not self._publish(topics.down(device, "chunk"), dump(chunk), retain=False):
                    break
                sent += 1
        return sent
