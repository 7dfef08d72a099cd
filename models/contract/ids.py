"""Ids made on the edge: unique without asking anybody, also on two devices with the same clock and seed; and rising,
also while the clock is set back."""

from __future__ import annotations

import secrets
import threading
import time
from uuid import UUID

_lock = threading.Lock()
_last = 0  # milliseconds since 1970, times 4096


def new_trace_id() -> UUID:
    """A UUID in version 7 form: 48 bits of milliseconds, 12 of their fraction (RFC 9562, 6.2, method 3), and 62 random
    ones from the system. Later ones of a process are higher; while the clock is behind, by one step of the fraction."""
    global _last
    with _lock:
        _last = ticks = max(time.time_ns() * 4096 // 1_000_000, _last + 1)
    ms, fraction = ticks >> 12 & (1 << 48) - 1, ticks & 0xFFF
    value = ms << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | secrets.randbits(62)
    return UUID(int=value)


def not_before(seconds: float) -> None:
    """Ids from here on are of this time or a later one; epoch seconds."""
    global _last
    with _lock:
        _last = max(_last, int(seconds * 1000) << 12)


def new_epoch() -> str:
    """32 hex digits."""
    return secrets.token_hex(16)
