"""Log lines of both programs: fixed words, then the facts as name=value or as JSON, on one line whatever somebody put
into them.

Levels go by what is lost: info is a step that an operator waits for, warning is unexpected and nothing lost, error is
data lost or a person needed. What is said again and again is said thirty times a minute and then counted.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final, Literal

MAX_VALUE: Final = 500  # characters of one fact
A_MINUTE: Final = 30  # lines with the same words
_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class Formatter(logging.Formatter):
    """`2026-03-02T08:00:00.000Z INFO ingest: batch stored n=3`"""

    def format(self, record: logging.LogRecord) -> str:
        words = [
            f"{_at(record)} {record.levelname} {record.name}: {one_line(record.getMessage())}",
            *(f"{name}={_fact(value)}" for name, value in _facts(record).items()),
        ]
        if record.exc_info and record.exc_info[0] is not None:
            words.append(f"trace={_fact(self.formatException(record.exc_info), 20 * MAX_VALUE)}")
        return " ".join(words)


class JsonFormatter(logging.Formatter):
    """One object a line: at, level, part, says, and the facts under their names."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            name: value if isinstance(value, int | float) else one_line(str(value))
            for name, value in _facts(record).items()
        }
        line |= {"at": _at(record), "level": record.levelname.lower(), "part": record.name}
        line["says"] = one_line(record.getMessage())
        if record.exc_info and record.exc_info[0] is not None:
            line["trace"] = one_line(self.formatException(record.exc_info), 20 * MAX_VALUE)
        return json.dumps(line)


class Calm(logging.Filter):
    """Lets the same words through A_MINUTE times a minute; the first line after that says how many were left out."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        key = (record.name, str(record.msg)[:MAX_VALUE])
        since, n = self._seen.get(key, (-60.0, 0))
        if (now := time.monotonic()) - since >= 60:
            if n > A_MINUTE:
                record.left_out = n - A_MINUTE
            since, n = now, 0
            if len(self._seen) > 1000:
                self._seen.clear()
        self._seen[key] = (since, n + 1)
        return n < A_MINUTE


def set_up(
    level: str,
    form: Literal["text", "json"] = "text",
    file: Path | None = None,
    max_bytes: int = 10 * 2**20,
    keep: int = 3,
) -> None:
    """Log from now on to standard error, as a program does that a service manager runs, or to a file of its own that
    is renamed when it is full: `keep` older ones stay. Raises OSError: the file can not be written."""
    handler: logging.Handler = logging.StreamHandler()
    if file is not None:
        handler = logging.handlers.RotatingFileHandler(file, maxBytes=max_bytes, backupCount=keep, encoding="utf-8")
    handler.setFormatter(JsonFormatter() if form == "json" else Formatter())
    handler.addFilter(Calm())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    threading.excepthook = _died


def _died(died: threading.ExceptHookArgs) -> None:
    """Also a library's thread that dies says so on one line."""
    if died.exc_value is not None:
        trace = (died.exc_type, died.exc_value, died.exc_traceback)
        name = died.thread.name if died.thread else "?"
        logging.getLogger("thread").error("a thread has died", exc_info=trace, extra={"thread_name": name})
    sys.stderr.flush()


def one_line(text: str, longest: int = MAX_VALUE) -> str:
    """Cut, and without anything that a terminal would obey."""
    cut = text if len(text) <= longest else f"{text[:longest]}... ({len(text)} characters)"
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in cut)


def _at(record: logging.LogRecord) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _OWN and not name.startswith("_")}


def _fact(value: object, longest: int = MAX_VALUE) -> str:
    text = one_line(str(value), longest)
    return text if text and not set(text) & set(' "=') else json.dumps(text, ensure_ascii=False)
