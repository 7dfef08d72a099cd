"""What every source is: blocks of samples, counters of what was lost, and a line that comes back by itself."""

from __future__ import annotations

import importlib
import logging
import queue
import random
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_agent.errors import SourceFailed
from edge_agent.settings import Broker, Settings
from models.contract.signals import Signal

log = logging.getLogger(__name__)

QUEUE: Final = 64  # items between a line and the detector; the oldest give way, and are counted
IDLE_S: Final = 0.2  # a source that has nothing says so at least so often
RETRY_MIN_S: Final = 0.5
RETRY_MAX_S: Final = 30.0  # a site whose plant comes back is read again within half a minute


class Block(NamedTuple):
    """Samples of one asset."""

    times: NDArray[np.float64]  # [n], epoch seconds
    values: NDArray[np.float32]  # [n_signals, n]
    label: NDArray[np.int8] | None = None  # [n], of a labelled recording
    begins: str | None = None  # a new recording begins here: its name
    quality: NDArray[np.uint8] | None = None  # [n_signals, n], of models.contract.signals.Quality; None: all good
    late: bool = False  # history that its sender had kept back: it says nothing of how the machine is now


class Source(Protocol):
    """What a reader thread asks of a source."""

    signals: tuple[Signal, ...]
    rate_hz: float

    @property
    def ends(self) -> bool:
        """A recording ends, a machine does not."""

    @property
    def period_s(self) -> float | None:
        """It brings something at least so often. None: the agent watches how often."""

    @property
    def dropped(self) -> int:
        """Items lost before anybody could take them."""

    @property
    def unreadable(self) -> int:
        """Items that were none."""

    @property
    def counts(self) -> Counter[str]:
        """Everything else that people should hear of, by what it is."""

    def blocks(self) -> Iterator[Block | None]:
        """Samples as they come; None now and then while there are none. Raises SourceFailed."""

    def stop(self) -> None:
        """Make `blocks` end soon. From any thread."""


class SourceSettings(Settings, ABC):
    """The table of one source."""

    @property
    def on_a_grid(self) -> bool:
        """True: its signals come each at its own times, and the source joins them itself."""
        return False

    @abstractmethod
    def open(self, asset: str, fleet: Broker | None) -> Source:
        """The source that it describes; `fleet`: the fleet's broker, for a source without one of its own.

        Raises:
            SourceFailed: it can not work as described, whatever the other side does.
        """


class LineLost(Exception):
    """The connection could not be made, or has ended: it is tried again."""


class Backoff:
    """Full jitter (M. Brooker, "Exponential backoff and jitter"): a plant's gateways do not come back all at once."""

    def __init__(self, least_s: float = RETRY_MIN_S, most_s: float = RETRY_MAX_S) -> None:
        self._least_s, self._most_s = least_s, most_s
        self._failures = 0

    def next_s(self, lasted_s: float) -> float:
        """How long to wait after a connection that lasted so long (0: it was not made)."""
        if lasted_s >= self._most_s:
            self._failures = 0
        bound = min(self._most_s, self._least_s * 2.0 ** min(self._failures, 16))
        self._failures += 1
        return random.uniform(0.0, bound)  # noqa: S311 - spreads load, guards nothing


class LiveSource(ABC):
    """A source with a line to somewhere. The line has a thread of its own, which only queues; what it queued is decoded
    on the reader's thread.

    Attributes:
        counts: `line_lost`, `connected`, and the subclass's own.
    """

    ends = False
    period_s: float | None = None

    def __init__(self, asset: str, signals: tuple[Signal, ...], rate_hz: float) -> None:
        self.asset, self.signals, self.rate_hz = asset, signals, rate_hz
        self.dropped = self.unreadable = 0
        self.counts: Counter[str] = Counter()
        self.connected = False
        self.over = False  # set by `session`: nothing more is to come
        self.backoff = Backoff()
        self._queue: queue.Queue[Any] = queue.Queue(QUEUE)
        self._stopping = threading.Event()
        self._died: BaseException | None = None

    @abstractmethod
    def session(self) -> None:
        """Connect, call `up`, and `put` what comes, until the line is lost, `over` or `stopping`. On the line's thread.

        Raises:
            LineLost, OSError: it is tried again.
            SourceFailed: it never can work.
        """

    @abstractmethod
    def decode(self, item: Any) -> Iterator[Block]:
        """Blocks of an item. Raises ValueError, KeyError, TypeError or OverflowError: it is unreadable, and counted."""

    def size(self, item: Any) -> int:
        """How many are lost with an item that has to give way."""
        return 1

    def idle(self) -> Iterator[Block]:
        """What time itself completes. Called at least every IDLE_S."""
        return iter(())

    def cut(self) -> Iterator[Block]:
        """The line was lost: what can still be given of what came before."""
        return iter(())

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    def stop(self) -> None:
        self._stopping.set()

    def up(self) -> None:
        """The line is there."""
        self.connected = True
        self.counts["connected"] += 1
        log.info("source connected", extra={"asset": self.asset})

    def put(self, item: Any) -> None:
        """Hand something over; never waits. The oldest gives way."""
        while True:
            try:
                self._queue.put_nowait(item)
                return
            except queue.Full:
                try:
                    if (oldest := self._queue.get_nowait()) is not _CUT:
                        self.dropped += self.size(oldest)
                except queue.Empty:
                    continue

    def unread(self, exc: Exception) -> None:
        """Something could not be read: counted, and the first of it told: a flood of them is no log."""
        self.unreadable += 1
        if self.unreadable == 1:
            facts = {"asset": self.asset, "reason": f"{type(exc).__name__}: {exc}"[:200]}
            log.warning("samples not readable", extra=facts)

    def blocks(self) -> Iterator[Block | None]:
        thread = threading.Thread(target=self._hold_the_line, name=f"line-{self.asset}", daemon=True)
        thread.start()
        try:
            while not self.stopping:
                try:
                    item = self._queue.get(timeout=IDLE_S)
                except queue.Empty:
                    if self._died:
                        raise self._died from None
                    if self.over and not thread.is_alive() and self._queue.empty():
                        return
                    yield from self.idle()
                    yield None
                    continue
                if item is _CUT:
                    yield from self.cut()
                    continue
                yield from self._decoded(item)
                yield from self.idle()
        finally:
            self._stopping.set()
            thread.join(3.0)

    # -- inside -------------------------------------------------------------------------------------------------

    def _decoded(self, item: Any) -> Iterator[Block | None]:
        try:
            yield from self.decode(item)
        except (ValueError, KeyError, TypeError, OverflowError) as exc:
            self.unread(exc)
            yield None

    def _hold_the_line(self) -> None:
        told = False
        try:
            while not self.stopping:
                began, reason = time.monotonic(), "the other side ended it"
                self.connected = False
                try:
                    self.session()
                except (LineLost, OSError) as exc:
                    reason = str(exc) or type(exc).__name__
                if self.over:
                    self.put(_CUT)
                if self.over or self.stopping:
                    return
                lasted_s = time.monotonic() - began if self.connected else 0.0
                if self.connected:
                    self.connected, told = False, False
                    self.counts["line_lost"] += 1
                    self.put(_CUT)
                if not told:  # once an outage
                    told = True
                    log.warning("source away", extra={"asset": self.asset, "reason": reason[:300]})
                self._stopping.wait(self.backoff.next_s(lasted_s))
        except BaseException as exc:  # the reader raises it: a part that dies ends the process
            self._died = exc


_CUT: Final = object()


def library(name: str, extra: str) -> ModuleType:
    """A package that only one source needs.

    Raises:
        SourceFailed: it is not installed; says which extra brings it.
    """
    package = name.partition(".")[0]
    try:
        module = importlib.import_module(name)
    except ImportError as exc:
        raise SourceFailed(f"this source needs {package}: pip install 'pdm-loop[{extra}]'") from exc
    logging.getLogger(package).setLevel(logging.CRITICAL)  # what matters of it is told in our own words
    return module
