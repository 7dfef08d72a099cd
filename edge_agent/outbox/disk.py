"""The disk under the outbox: a ballast to throw off when it is full, and what state it is in."""

from __future__ import annotations

import logging
import os
import shutil
import time
from pathlib import Path
from typing import Final

from models.contract.health import StorageHealth

log = logging.getLogger(__name__)

LOOK_S: Final = 60.0


class Disk:
    """One outbox's. `state` is ok, short (the ballast is gone) or unusable (nothing can be written)."""

    def __init__(self, path: Path, ballast_bytes: int, owner: bool) -> None:
        self._ballast, self._bytes, self._folder = path.with_name(f"{path.stem}.ballast"), ballast_bytes, path.parent
        self.state, self.reason = "ok", ""
        self._looked_at = time.monotonic()
        if owner:
            self.build()

    def build(self) -> bool:
        """Have a ballast, if there is room for it several times over; True: there is one, or none is wanted."""
        try:
            if self._bytes == 0 or (self._ballast.exists() and self._ballast.stat().st_size >= self._bytes):
                return True
            if shutil.disk_usage(self._folder).free < 4 * self._bytes:
                return False
            with self._ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, self._bytes)
            return True
        except OSError as exc:
            log.warning("no ballast", extra={"reason": str(exc)})
            return False

    def throw_off(self, reason: str) -> bool:
        """The disk is full: False if there was no ballast left to throw off."""
        self.state, self.reason = "short", reason
        try:
            self._ballast.unlink()
        except OSError:
            return False
        log.error("disk full, ballast thrown off", extra={"bytes": self._bytes, "reason": reason})
        return True

    def recovered(self) -> bool:
        """True, now and then, if a short disk has room again; then it has its ballast."""
        if self.state == "ok" or time.monotonic() - self._looked_at < LOOK_S:
            return False
        return self.look()

    def look(self) -> bool:
        self._looked_at = time.monotonic()
        if not self.build():
            return False
        self.state, self.reason = "ok", ""
        return True

    def health(self, used: int, buffered: int) -> StorageHealth:
        try:
            free = shutil.disk_usage(self._folder).free
        except OSError:
            free = 0
        return StorageHealth(
            state=self.state, reason=self.reason[:300], free_bytes=free, used_bytes=used, buffered=buffered
        )
