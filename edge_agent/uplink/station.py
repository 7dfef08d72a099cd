"""One thread that owns the connection: sends what waits, hears what comes, and decides when to try again.

A broker's acknowledgement is not storage: a row goes only when the server's signed receipt names it. What got no
receipt in time is sent again, later and later.
"""

from __future__ import annotations

import logging
import queue
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, Literal

from edge_agent.clock import SYSTEM, Clock
from edge_agent.config import Broker, UplinkSettings
from edge_agent.errors import DiskTrouble
from edge_agent.outbox import PRIORITY, Outbox, Row
from edge_agent.uplink.backoff import Backoff, why
from edge_agent.uplink.budget import Budget
from edge_agent.uplink.lanes import LIVE, Lanes, Parcel, Place
from edge_agent.uplink.link import Acked, Down, Link, Message
from edge_agent.vitals import Pulse, no_pulse
from models.bundle.signing import NotTrusted, PublicKeys
from models.contract import topics
from models.contract.base import Stream
from models.contract.codec import MAX_PAYLOAD, Unreadable, dump, load, pack, wrap
from models.contract.commands import CommandNote
from models.contract.ids import new_trace_id
from models.contract.messages import Body, Chunk, DeviceFault, Fetch, Offer, Receipt, ReceiptNote, Session

log = logging.getLogger(__name__)

RECEIPT_S: Final = 10.0  # a row without a receipt after this is sent again, later and later
NEVER_STORED: Final = 5  # so many times acknowledged by the broker and not stored: somebody should look at the broker
TURN_S: Final = 0.05
LOOK_S: Final = 1.0  # for rows that another process has put
PACK_BYTES: Final = 128 * 1024  # of bodies in one message
GATHER_ROWS: Final = 400  # of telemetry: so many go without waiting for their time
REQUESTS: Final = 64


class Uplink:
    """From `loop` on. The other methods may be called from any thread."""

    def __init__(
        self,
        device: str,
        broker: Broker,
        server_keys: PublicKeys | None,
        outbox: Outbox,
        offer: Callable[[Offer | Chunk], None],
        command: Callable[[CommandNote], None],
        counters: Counter[str],
        receipt_s: float = RECEIPT_S,
        clock: Clock = SYSTEM,
        settings: UplinkSettings | None = None,
        put: Callable[[Sequence[Body]], object] | None = None,
    ) -> None:
        settings = settings or UplinkSettings(telemetry_every_s=0)
        self.device, self._broker, self._keys, self._outbox = device, broker, server_keys, outbox
        self._offer, self._command, self._counters, self._clock = offer, command, counters, clock
        self._put = put or outbox.put
        self._stop = threading.Event()
        self._requests: queue.Queue[Fetch | None] = queue.Queue(REQUESTS)
        will = (topics.session(device), self._session("death", "cut off"))
        self._link = Link(device, broker, will, clock, counters)
        self._lanes, self._backoff = Lanes(outbox, receipt_s), Backoff()
        self.budget = Budget(settings, outbox, counters, clock)
        self._mids: dict[int, Parcel | None] = {}
        self._next_try = 0.0
        self._packs = outbox.remember("packs") == "1"  # the server takes several records in one message
        self._gather_s = settings.telemetry_every_s
        self._released: dict[Stream, int] = {}
        self._released_at = -self._gather_s
        self._seen, self._looked_at = -1, 0.0
        self._never_stored: set[Place] = set()
        self._spent = 0
        self.problem = "not tried yet"  # why there is no connection; "": there is one
        self.connected_at = 0.0  # when the connection that stands was made, monotonic

    @property
    def connected(self) -> bool:
        return self._link.connected

    def fetch(self, sha256: str, indexes: tuple[int, ...]) -> None:
        """Ask for pieces of a bundle. Not kept: whoever wants them asks again."""
        self._request(Fetch(device=self.device, sha256=sha256, indexes=indexes))

    def send_again(self) -> None:
        """Everything that waits, now: what was sent is not waited for any longer."""
        self._request(None)

    def stop(self) -> None:
        self._stop.set()

    def loop(self, pulse: Pulse = no_pulse) -> None:
        """Until `stop`. Raises OutboxDamaged."""
        while not self._stop.is_set():
            pulse()
            self.turn()
        self._finish()

    def turn(self, timeout_s: float = TURN_S) -> None:
        """One round: connect if it is time, let the network move, act on what came, send what may go."""
        if not self._link.busy and not self._link.events and self._clock.monotonic() >= self._next_try:
            self._link.connect()
        began = self._link.connected
        self._link.turn(timeout_s, self._lanes.unacked)
        try:
            if self._link.connected and not began:
                self._on_connect()
            while self._link.events:
                event = self._link.events.popleft()
                if isinstance(event, Message):
                    self._on_message(event)
                elif isinstance(event, Acked):
                    self._on_acked(event)
                else:
                    self._on_down(event)
            if self._link.connected:
                self._serve_requests()
                self._send()
            self._account()
        except DiskTrouble:  # the outbox's writer says so; a receipt that was not noted comes again
            self._counters["uplink_disk_trouble"] += 1
            self._stop.wait(1.0)

    # -- what came ----------------------------------------------------------------------------------------------

    def _on_connect(self) -> None:
        self._link.publish(topics.session(self.device), self._session("birth"))
        self.connected_at, self.problem = self._clock.monotonic(), ""
        self._mids.clear()
        self._lanes.forget()
        self._seen = -1
        log.info("connected to the broker", extra={"host": self._broker.host, "port": self._broker.port})

    def _on_down(self, down: Down) -> None:
        guilty = self._lanes.died()
        for stream, seq in guilty:
            self._outbox.put_aside(stream, [seq], "kills_link")
        reason = why(down.code)
        wait_s = self._backoff.wait_s(reason)
        self._next_try = self._clock.monotonic() + wait_s
        refused, self.problem = down.reason.startswith("refused"), down.reason
        self._counters[f"connections_{'lost' if down.stood else 'refused' if refused else 'failed'}"] += 1
        words = "connection to the broker lost" if down.stood else "no connection to the broker"
        (log.warning if refused else log.info)(words, extra={"reason": down.reason, "again_in_s": round(wait_s, 1)})

    def _on_acked(self, acked: Acked) -> None:
        parcel = self._mids.pop(acked.mid, None)
        if parcel is None:
            return
        self._lanes.acked(parcel)
        if acked.refused:  # it is sent again in time
            self._counters["publishes_refused"] += 1

    def _on_message(self, message: Message) -> None:
        parsed = topics.parse(message.topic)
        if parsed is None or parsed.device != self.device or parsed.direction != "down":
            return
        try:
            if parsed.name == "receipt":
                self._on_receipt(load(ReceiptNote, message.payload))
            elif parsed.name == "offer":
                self._offer(load(Offer, message.payload))
            elif parsed.name == "command":
                self._command(load(CommandNote, message.payload))
            else:
                self._offer(load(Chunk, message.payload))
        except Unreadable as exc:
            self._counters["unreadable_from_server"] += 1
            log.warning("message not readable", extra={"topic": message.topic, "reason": str(exc)})

    def _on_receipt(self, note: ReceiptNote) -> None:
        try:
            if self._keys is None:
                raise NotTrusted("no server key is configured")
            receipt = self._keys.open(Receipt, note.receipt)
            if receipt.device != self.device:
                raise NotTrusted(f"the receipt is for {receipt.device}")
        except NotTrusted as exc:
            self._counters["receipts_refused"] += 1
            log.warning("receipt refused", extra={"reason": str(exc)})
            return
        if receipt.epoch != self._outbox.epoch:  # of an outbox that this device had before
            self._counters["receipts_refused"] += 1
            return
        ranges = [*receipt.ranges] + ([(1, receipt.up_to)] if receipt.up_to else [])
        highest = max((last for _, last in ranges), default=0)
        if highest > (made := self._outbox.newest(receipt.stream)):
            self._outbox.suspect(f"{highest} {receipt.stream.value} records are stored, of {made} that were made here")
        self._outbox.stored(receipt.stream, ranges, self.budget.write)
        self._lanes.stored(receipt.stream, ranges)
        self._backoff.worked()
        self._seen = -1
        if receipt.packs != self._packs:
            self._packs = receipt.packs
            self._outbox.remember("packs", str(int(self._packs)))
        self._clear_never_stored()

    # -- what goes ----------------------------------------------------------------------------------------------

    def _send(self) -> None:
        now = self._clock.monotonic()
        for place in self._lanes.late(now):
            self._counters["sent_again"] += 1
            self._seen = -1
            if self._lanes.times[place] == NEVER_STORED:
                self._note_never_stored(place)
        if self._outbox.changes == self._seen and now - self._looked_at < LOOK_S and self._lanes.idle:
            return
        self._seen, self._looked_at = self._outbox.changes, now
        self._release(now)
        limit = min(PACK_BYTES, self._link.max_payload)
        for lane, rows in self._lanes.next(limit, self._packs, self._released):
            if len(self._mids) >= self._link.in_flight or not self.budget.allows(rows[0].stream):
                return
            payload = self._payload(rows)
            if len(payload) > self._link.max_payload:
                if len(rows) > 1:  # packed badly: one by one then
                    rows, payload = rows[:1], self._payload(rows[:1])
                if len(payload) > self._link.max_payload:
                    self._outbox.put_aside(rows[0].stream, [rows[0].seq], "oversize")
                    self._lanes.given_up((rows[0].stream, rows[0].seq))
                    continue
            mid = self._link.publish(topics.up(self.device, rows[0].stream), payload)
            self._mids[mid] = self._lanes.sent(lane, rows, len(payload), now)
            if not self._link.connected:  # it died of this, or just then
                return

    def _payload(self, rows: list[Row]) -> bytes:
        stream, epoch = rows[0].stream, self._outbox.epoch
        if len(rows) > 1:
            return pack(self.device, epoch, stream, [(row.seq, row.body) for row in rows])
        plain = wrap(self.device, epoch, stream, rows[0].seq, rows[0].body)
        small = self._packs and not self._lanes.times[stream, rows[0].seq] and len(plain) <= MAX_PAYLOAD
        return min(plain, zlib.compress(plain), key=len) if small else plain

    def _release(self, now: float) -> None:
        """Telemetry gathers, so that one message and one receipt do for much of it."""
        if self._gather_s == 0:
            self._released = {}
            return
        gathering = [stream for stream in PRIORITY if stream not in LIVE]
        newest: dict[Stream, int] = {stream: self._outbox.newest(stream) for stream in gathering}
        n = sum(newest[stream] - self._released.get(stream, 0) for stream in gathering)
        if now - self._released_at >= self._gather_s or n >= GATHER_ROWS or not self._released:
            self._released, self._released_at = newest, now

    def _serve_requests(self) -> None:
        while not self._requests.empty():
            request = self._requests.get()
            if request is None:
                self._lanes.forget()
                self._seen = -1
            else:
                self._link.publish(topics.fetch(self.device), dump(request))

    def _request(self, request: Fetch | None) -> None:
        try:
            self._requests.put_nowait(request)
        except queue.Full:  # it is asked for again
            self._counters["requests_dropped"] += 1

    # -- accepted by the broker, never stored -------------------------------------------------------------------

    def _note_never_stored(self, place: Place) -> None:
        self._counters["accepted_never_stored"] += 1
        first = not self._never_stored
        self._never_stored.add(place)
        stream, seq = place
        log.error("accepted by the broker, never stored", extra={"stream": stream.value, "seq": seq})
        if first:
            self._tell_fault(f"{stream.value} {seq} was taken {NEVER_STORED} times and not stored", cleared=False)

    def _clear_never_stored(self) -> None:
        if self._never_stored and not self._never_stored & self._lanes.times.keys():
            self._never_stored.clear()
            self._tell_fault("what was taken is stored again", cleared=True)

    def _tell_fault(self, detail: str, *, cleared: bool) -> None:
        fault = DeviceFault(
            trace_id=new_trace_id(),
            made_at=self._clock.now(),
            time_quality=self._clock.quality,
            fault="never_stored",
            cleared=cleared,
            detail=detail,
        )
        self._put([fault])

    # -- the end ------------------------------------------------------------------------------------------------

    def _account(self) -> None:
        spent = self._link.bytes_out + self._link.bytes_in
        self.budget.spend(spent - self._spent)
        self._spent = spent
        self.budget.write()

    def _finish(self, up_to_s: float = 2.0) -> None:
        """Send what is there, and wait a little for its receipts. What stays is on disk."""
        deadline = self._clock.monotonic() + up_to_s
        self._gather_s = 0.0
        self._seen = -1
        while self._link.connected and self._clock.monotonic() < deadline:
            self.turn(0.02)
            if self._lanes.idle:
                break
        if self._link.connected:  # the server shall know at once that this was meant
            self._link.publish(topics.session(self.device), self._session("death", "stopped"))
            self._link.flush(1.0)
        self._link.close()

    def _session(self, state: Literal["birth", "death"], reason: str = "") -> bytes:
        return dump(Session(device=self.device, state=state, reason=reason))
