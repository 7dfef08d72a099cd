"""Log lines of both programs: fixed words, then the facts as name=value, on one line whatever somebody put into
them."""

from __future__ import annotations

import json
import logging
import time
from typing import Final

MAX_VALUE: Final = 500  # characters of one fact
_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class Formatter(logging.Formatter):
    """`2026-03-02T08:00:00.000Z INFO ingest: batch stored n=3`"""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        facts = {name: value for name, value in vars(record).items() if name not in _OWN and not name.startswith("_")}
        words = [
            f"{stamp}.{int(record.msecs):03d}Z {record.levelname} {record.name}: {one_line(record.getMessage())}",
            *(f"{name}={_fact(value)}" for name, value in facts.items()),
        ]
        if record.exc_info and record.exc_info[0] is not None:
            words.append(f"trace={_fact(self.formatException(record.exc_info), 20 * MAX_VALUE)}")
        return " ".join(words)


def set_up(level: str) -> None:
    """Log to standard error from now on, as a program does that a service manager runs."""
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def one_line(text: str, longest: int = MAX_VALUE) -> str:
    """Cut, and without anything that a terminal would obey."""
    cut = text if len(text) <= longest else f"{text[:longest]}... ({len(text)} characters)"
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in cut)


def _fact(value: object, longest: int = MAX_VALUE) -> str:
    text = one_line(str(value), longest)
    return text if text and not set(text) & set(' "=') else json.dumps(text, ensure_ascii=False)
