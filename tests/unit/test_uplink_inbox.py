"""What the network's thread hands over."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from edge_agent.config import Broker
from edge_agent.outbox import Outbox
from edge_agent.uplink import INBOX, Uplink


def test_a_flood_of_messages_is_bounded_and_hides_no_connection(tmp_path: Path) -> None:
    counters: Counter[str] = Counter()
    outbox = Outbox(tmp_path / "outbox.db")
    uplink = Uplink("test.gw", Broker(port=1), None, outbox, lambda _: None, lambda _: None, counters)
    for _ in range(INBOX + 50):
        uplink._queue("message", ("elsewhere", b""))
    uplink._queue("disconnect", "gone")
    assert counters["uplink_inbox_full"] == 50
    uplink.connected = True
    uplink._handle_inbox()
    assert not uplink.connected
