"""Commands to devices. Whoever wants one sent calls `send` in a transaction of his own: it goes out with the commit."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from fleet_server.errors import NotFound, Refused
from fleet_server.store import commands, decisions, devices
from fleet_server.store.pool import Connection
from models.contract.commands import CommandBody
from models.contract.ids import new_trace_id


def send(
    conn: Connection,
    device: str,
    body: CommandBody,
    deadline: datetime,
    latest: str | None = None,
    *,
    by: str = "server",
) -> UUID:
    """Tell a device to do something; the command's id. Kept and sent again until the device has answered, also one that
    is off now, until the deadline.

    Args:
        latest: the state it sets, of which only the newest command counts. Default: what the body says of itself.

    Raises:
        NotFound: no such device was ever heard of.
        Refused: the deadline has passed already.
    """
    now = datetime.now(UTC)
    if deadline <= now:
        raise Refused(f"the deadline {deadline:%Y-%m-%d %H:%M:%S} has passed already")
    if not devices.listing(conn, device):
        raise NotFound(f"there is no device {device}")
    command_id, latest, raw = new_trace_id(), latest or body.state(), body.model_dump(mode="json")
    sequence = commands.insert(conn, command_id, device, raw, latest, by, now, deadline)
    if latest:
        commands.supersede(conn, device, latest, sequence)
    decisions.record(conn, "command", str(command_id), raw["kind"], f"given by {by}", {"device": device, "body": raw})
    return command_id
