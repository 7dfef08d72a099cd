"""What an error of the disk or of SQLite means to those who keep records."""

from __future__ import annotations

import errno
import sqlite3
from typing import Final

from edge_agent.errors import DiskTrouble, OutboxDamaged, OutboxFailed

DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
KINDS: Final = {
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_READONLY: "read-only",
    sqlite3.SQLITE_IOERR: "failing",
    sqlite3.SQLITE_CANTOPEN: "failing",
    sqlite3.SQLITE_BUSY: "busy",
    errno.ENOSPC: "full",
    errno.EDQUOT: "full",
    errno.EROFS: "read-only",
}


ERRORS: Final = (sqlite3.Error, UnicodeDecodeError)  # a damaged file may garble even its own error message


def meaning(exc: sqlite3.Error | OSError | UnicodeDecodeError, path: object) -> OutboxFailed | None:
    """The same as one of our own; None: it is a fault of the program and stays what it is."""
    if isinstance(exc, OSError):
        return DiskTrouble(KINDS.get(exc.errno or 0, "failing"), f"{path}: {exc}")
    if isinstance(exc, UnicodeDecodeError):
        return OutboxDamaged(f"{path} is damaged: {exc}")
    code = getattr(exc, "sqlite_errorcode", None)
    if code is None:
        return OutboxDamaged(f"{path}: {exc}") if type(exc) is sqlite3.DatabaseError else None
    primary = code & 0xFF  # the rest says where it happened
    if primary in DAMAGED:
        return OutboxDamaged(f"{path} is damaged: {exc}")
    if primary in KINDS:
        return DiskTrouble(KINDS[primary], f"{path}: {exc}")
    return None
