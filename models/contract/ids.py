"""Ids made on the edge: unique without asking anybody, also on two devices with the same clock and seed."""

from __future__ import annotations

import secrets
import time
from uuid import UUID


def new_trace_id() -> UUID:
    """A UUID in version 7 form (RFC 9562): milliseconds first, then 74 random bits from the system."""
    ms = time.time_ns() // 1_000_000 & (1 << 48) - 1
    value = ms << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62)
    return UUID(int=value)


def new_epoch() -> str:
    """32 hex digits."""
    return secrets.token_hex(16)
