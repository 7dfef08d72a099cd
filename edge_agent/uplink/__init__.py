"""The outbox to the fleet's broker, and receipts, offers, commands and pieces of bundles back. docs/uplink.md has its
rules."""

from edge_agent.uplink.station import Uplink

__all__ = ["Uplink"]
