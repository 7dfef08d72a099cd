"""What is wrong by the running agent's own account: its connection, its budget, its disk, its sources, and whatever it
counts that should not happen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from edge_agent.operate.finding import Finding, State
from edge_agent.status import Live

# Counters that somebody should look at, with what they mean and what to do; `KIND.WHO` counts for each WHO.
COUNTED: Final[dict[str, tuple[str, str, str]]] = {
    "receipts_refused": ("keys", "receipts that are not of the server", "is trust.server_keys this server's key?"),
    "offers_refused": ("keys", "orders that are not of the server, or not approved", "see trust.*_keys"),
    "commands_refused": ("keys", "commands that are not of the server", "is trust.server_keys this server's key?"),
    "accepted_never_stored": ("broker", "records taken by the broker and not stored", "its queue limits; fleet-server"),
    "publishes_refused": ("broker", "messages refused by the broker", "its rights for pdm/v1/DEVICE/up/#"),
    "unreadable_from_server": ("broker", "messages from the server that this agent can not read", "upgrade the agent"),
    "bytes_over_budget": ("budget", "bytes beyond the budget, for alarms", "a larger budget, or look at the alarms"),
    "tls_without_dates": ("clock", "connections with certificates' dates overlooked", "have the clock kept"),
    "clock_floor_unwritten": ("disk", "times that the clock's floor was not written", "make room"),
    "disk_refused": ("disk", "batches that the disk did not take at once", "make room; is it failing? (dmesg)"),
    "uplink_disk_trouble": ("disk", "receipts that the disk did not take at once", "make room; is it failing? (dmesg)"),
    "commands_not_noted": ("disk", "commands that the disk did not take", "make room; the server sends them again"),
    "alarm_turns_failed": ("disk", "turns of the alarms' desk that the disk did not take", "make room"),
    "dropped_in_memory": ("disk", "records given up in memory, waiting for the disk", "a faster disk, or more room"),
    "reloads_refused": ("config", "times the settings were not taken anew", "edge-agent check, then reload"),
    "notices_lost": (
        "notify",
        "notices of alarms that reached nobody",
        "the address in [[notify]], and who answers",
    ),
    "blocks_dropped": ("source", "blocks that came faster than they are scored", "fewer signals or a lower rate"),
    "blocks_unreadable": ("source", "messages that can not be read", "docs/sources: what this source expects"),
}


def findings(live: Live) -> Iterator[Finding]:
    """All of it, in the order in which one would look."""
    yield from _connection(live)
    if live.storage.state != "ok":
        state: State = "broken" if live.storage.state == "unusable" else "look"
        yield Finding("disk", state, f"the outbox finds it {live.storage.state}: {live.storage.reason}", "make room")
    for name, asset in live.assets.items():
        if asset.state in ("silent", "waiting"):
            yield Finding("source", "broken", f"{name} gives nothing", "power, cable, address of its source")
            continue
        for ill in asset.sensors:
            says = f"{name}: {ill.signal} {ill.fault.value}"
            yield Finding("sensor", "look", says, "the sensor, its cable, its settings; alarms go on without it")
        dropped = ", ".join(f"{n} {cause}" for cause, n in {**asset.dropped, **asset.flagged}.items())
        yield Finding("source", "ok", f"{name} is {asset.state}{f'; dropped or doubted {dropped}' if dropped else ''}")
    for counter, n in sorted(live.counters.items()):
        what, _, who = counter.partition(".")
        if n and what in COUNTED:
            part, says, do = COUNTED[what]
            yield Finding(part, "look", f"{n} {says}{f' ({who})' if who else ''} since the start", do)


def _connection(live: Live) -> Iterator[Finding]:
    if live.connected is None:
        return
    if live.connected:
        yield Finding("link", "ok", "connected to the broker")
    elif live.link.startswith("refused"):
        do = "user, password or certificate of [broker], and what the broker allows this device"
        yield Finding("link", "broken", f"the broker lets it in no more: {live.link}", do)
    else:
        do = "see broker; nothing is lost meanwhile but what `outbox` says"
        yield Finding("link", "broken", f"no connection to the broker: {live.link}", do)
    if (live.budget or 0) > 0.5:
        yield Finding("budget", "look", f"{live.budget:.0%} of the bytes are used", "a larger budget; docs/uplink.md")
