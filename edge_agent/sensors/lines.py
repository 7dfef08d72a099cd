"""Lines of text, one sample of each signal a line: from standard input, a unix socket or TCP."""

from __future__ import annotations

import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from edge_agent.errors import SourceFailed
from edge_agent.sensors.base import IDLE_S, Backoff, Block, SourceSettings
from edge_agent.sensors.channel import Channel
from edge_agent.sensors.mapping import TimeUnit, find, instant, number, steps
from edge_agent.sensors.resampled import JoinedSource
from edge_agent.settings import Broker, FilePath
from models.contract.codec import parse_json
from models.contract.signals import Quality

CHUNK: Final = 16 * 1024  # bytes at once; so many times QUEUE is all that waits here
CONNECT_S: Final = 5.0
_STDIN: Final = threading.Lock()  # two readers would tear each other's lines apart


class Cell(Channel):
    """One signal: a cell or a place in the line's JSON object."""

    value: str | None = None  # csv: a name in `columns`; json: a path; None: by the signal's own name


class LinesSource(SourceSettings):
    """Newline-delimited text; exactly one of `stdin`, `socket`, and `host` with `port`."""

    stdin: bool = False
    socket: FilePath | None = None  # a unix socket's path
    host: str | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    listen: bool = False  # the sender connects to us; without: we connect to it
    format: Literal["csv", "json"] = "csv"
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    columns: tuple[str, ...] = ()  # csv: what each cell is; empty: the signals in their order
    time: str | None = None  # the column or path of the sample's time; None: when the line came
    time_unit: TimeUnit | None = None  # of a number; None: found by looking
    skip_first: bool = False  # of each connection: a header, or a line that had begun before we listened
    max_line: Annotated[int, Field(ge=16, le=2**20)] = 4096  # bytes; a longer line is left out
    rate_hz: Annotated[float, Field(gt=0, le=10_000)] = 1.0
    wait_s: Annotated[float, Field(gt=0)] = 1.0  # a line may come so late
    signals: Annotated[tuple[Cell, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _one_place_and_known_columns(self) -> Self:
        if [self.stdin, self.socket is not None, self.host is not None].count(True) != 1:
            raise ValueError("give one of stdin = true, socket, or host and port")
        if (self.host is None) != (self.port is None):
            raise ValueError("host and port go together")
        if self.listen and self.stdin:
            raise ValueError("listen goes with socket, or with host and port")
        for place in filter(None, [self.time, *self.places]):
            if self.format == "json":
                steps(place)
            elif place not in self.cells:
                raise ValueError(f"{place!r} is not among the columns {', '.join(self.cells)}")
        return self

    @property
    def cells(self) -> tuple[str, ...]:
        return self.columns or tuple(signal.name for signal in self.signals)

    @property
    def places(self) -> tuple[str, ...]:
        """Of each signal: its column, or its path."""
        own = "$.{}" if self.format == "json" else "{}"
        return tuple(signal.value or own.format(signal.name) for signal in self.signals)

    @property
    def on_a_grid(self) -> bool:
        return True

    def open(self, asset: str, fleet: Broker | None) -> Lines:
        return Lines(self, asset)


class Splitter:
    """Bytes as they come to whole lines.

    Attributes:
        too_long: lines left out for their length.
    """

    def __init__(self, max_line: int, skip_first: bool = False) -> None:
        self._max, self._skip = max_line, skip_first
        self._rest = b""
        self.too_long = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        *whole, self._rest = (self._rest + chunk).split(b"\n")
        given = []
        for line in whole:
            if self._skip:
                self._skip = False
            elif len(line) > self._max:
                self.too_long += 1
            elif line.strip():
                given.append(line)
        if len(self._rest) > self._max and not self._skip:  # it is not kept, and its end will be skipped
            self.too_long += 1
            self._skip = True
        if self._skip:
            self._rest = b""
        return given

    def rest(self) -> bytes:
        """What began and was not ended."""
        return b"" if self._skip else self._rest.strip()


class Lines(JoinedSource):
    """Counts `lines`, `lines_too_long` and `lines_cut` (the line was lost in the middle of one)."""

    def __init__(self, settings: LinesSource, asset: str) -> None:
        super().__init__(asset, settings.signals, settings.rate_hz, 1 / settings.rate_hz, settings.wait_s)
        self._settings = settings
        self._server: socket.socket | None = None
        if settings.listen:
            self.backoff = Backoff(0.0, 0.0)  # whoever connects is not kept waiting
        cells = {name: i for i, name in enumerate(settings.cells)}
        self._cells = [cells.get(place, 0) for place in settings.places]
        self._time_cell = cells.get(settings.time or "")

    def session(self) -> None:
        with self._opened() as fd:
            if fd is None:
                return
            self.up()
            splitter = Splitter(self._settings.max_line, self._settings.skip_first)
            try:
                self._pass_on(fd, splitter)
            finally:
                if rest := splitter.rest():
                    if self.over:  # a last line of a file needs no end
                        self.put((time.time(), [rest]))
                    else:
                        self.counts["lines_cut"] += 1

    def put(self, item: Any) -> None:
        while self._settings.stdin and self._queue.full() and not self._stopping.wait(0.01):
            pass  # a pipe waits, and so does who writes into it
        super().put(item)

    def size(self, item: Any) -> int:
        return len(item[1])

    def decode(self, item: Any) -> Iterator[Block]:
        arrived, lines = item
        rows: list[tuple[float, list[float]]] = []
        for line in lines:
            self.counts["lines"] += 1
            try:
                rows.append(self._row(line, arrived))
            except (ValueError, LookupError, TypeError, OverflowError) as exc:
                self.unread(exc)
        if rows:
            times = np.array([stamp for stamp, _ in rows])
            values = np.array([row for _, row in rows])
            for i in range(len(self.signals)):
                there = ~np.isinf(values[:, i])  # not in that line: it brings others
                marks = np.where(np.isnan(values[there, i]), Quality.BAD, Quality.GOOD).astype(np.uint8)
                self.joiner.add(i, times[there], values[there, i], marks)
            self.joiner.heard(rows[-1][0])
        yield from self.joiner.take()

    # -- inside -------------------------------------------------------------------------------------------------

    def _pass_on(self, fd: int, splitter: Splitter) -> None:
        """Until the other side ends it, or we stop."""
        with selectors.PollSelector() as selector:  # epoll takes no files, and standard input may be one
            selector.register(fd, selectors.EVENT_READ)
            while not self.stopping:
                if not selector.select(IDLE_S):
                    continue
                chunk = os.read(fd, CHUNK)
                if not chunk:
                    self.over = self._settings.stdin
                    return
                lines = splitter.feed(chunk)
                self.counts["lines_too_long"] += splitter.too_long
                splitter.too_long = 0
                if lines:
                    self.put((time.time(), lines))

    @contextmanager
    def _opened(self) -> Iterator[int | None]:
        """A file descriptor to read from; None: nobody came before we stopped."""
        settings = self._settings
        with ExitStack() as stack:
            if settings.stdin:
                if not _STDIN.acquire(blocking=False):
                    raise SourceFailed(f"asset {self.asset}: another asset reads standard input already")
                stack.callback(_STDIN.release)
                yield sys.stdin.fileno()
                return
            line = self._accepted() if settings.listen else _connected(settings)
            if line is None:
                yield None
            else:
                stack.enter_context(line)
                yield line.fileno()

    def _accepted(self) -> socket.socket | None:
        """The next one to connect."""
        try:
            self._server = self._server or _server(self._settings)
        except OSError:
            self._stopping.wait(1.0)  # somebody else has the address
            raise
        self._server.settimeout(IDLE_S)
        while not self.stopping:
            try:
                return self._server.accept()[0]
            except TimeoutError:
                continue
        self._server.close()
        return None

    def _row(self, line: bytes, arrived: float) -> tuple[float, list[float]]:
        """Time and values of a line. Inf: the line does not bring that signal."""
        settings = self._settings
        if settings.format == "json":
            message = parse_json(line)
            values = [_at(message, place) for place in settings.places]
            if all(map(np.isinf, values)):
                raise ValueError(f"the line has none of {', '.join(settings.places)}")
            when: Any = find(message, settings.time) if settings.time else None
        else:
            cells = line.decode().rstrip("\r").split(settings.delimiter)
            if len(cells) != len(settings.cells):
                raise ValueError(f"{len(cells)} cells where {len(settings.cells)} were expected")
            cells = [cell.strip(' "') for cell in cells]
            values = [_known(number(cells[i])) for i in self._cells]
            when = None if self._time_cell is None else cells[self._time_cell]
        return arrived if settings.time is None else instant(when, settings.time_unit), values


def _at(message: Any, place: str) -> float:
    try:
        return _known(number(find(message, place)))
    except LookupError:
        return np.inf


def _known(value: float) -> float:
    return np.nan if np.isinf(value) else value


def _connected(settings: LinesSource) -> socket.socket:
    if settings.socket is None:
        return socket.create_connection((settings.host, settings.port), timeout=CONNECT_S)
    line = socket.socket(socket.AF_UNIX)
    try:
        line.settimeout(CONNECT_S)
        line.connect(str(settings.socket))
    except BaseException:
        line.close()
        raise
    return line


def _server(settings: LinesSource) -> socket.socket:
    if settings.socket is None:
        return socket.create_server((settings.host or "", settings.port or 0), backlog=1)
    settings.socket.unlink(missing_ok=True)  # left by one that was killed
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(settings.socket))
    server.listen(1)
    return server
