"""The outbox: what was confirmed here is on disk until the server says that it is stored. docs/outbox.md has its rules
and every way in which it can fail."""

from edge_agent.outbox.room import PRIORITY, ROW_OVERHEAD
from edge_agent.outbox.store import MAX_RANGES, Outbox, Row
from edge_agent.outbox.writer import Writer

__all__ = ["MAX_RANGES", "PRIORITY", "ROW_OVERHEAD", "Outbox", "Row", "Writer"]
