"""The floor under versions: an operator raises it, every order carries it, devices keep it whatever is said later."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime

from fleet_server.errors import Refused
from fleet_server.release import rollouts
from fleet_server.store import bundles, decisions, floors
from fleet_server.store import rollouts as store
from fleet_server.store.pool import Connection


@dataclass(frozen=True)
class Raised:
    """Who hears of it now, and who runs something older, or unknown: those hear of it with their next release."""

    floor: int
    told: list[str]
    later: dict[str, str]


def raise_to(conn: Connection, version: int, reason: str) -> Raised:
    """No version below, ever again. Each device that runs a newer one is ordered what it runs, with the new floor.

    Raises:
        Refused: it is as high already, no approved release would be left, or a rollout is on its way.
    """
    if version <= (now := floors.current(conn)):
        raise Refused(f"the floor is {now} already, and it never falls")
    known = {row.sha256: row for row in bundles.listing(conn)}
    if not any(row.version >= version and row.approved_by and row.state != "barred" for row in known.values()):
        raise Refused(f"no approved release has version {version} or above: devices could take nothing any more")
    for other in store.unfinished(conn):
        if other.mode == "trial":
            raise Refused(f"rollout {other.rollout_id} is not finished: stop it first")
    floors.insert(conn, version, datetime.now(UTC), reason)
    runs: dict[str, list[str]] = defaultdict(list)
    later: dict[str, str] = {}
    for device in store.fleet(conn):
        row = known.get(device.model_sha256 or "")
        if row is None or row.approved_by is None:
            later[device.device_id] = "runs what is not known here"
        elif row.version < version:
            later[device.device_id] = f"runs {row.name} {row.version}, which is below"
        else:
            runs[row.sha256].append(device.device_id)
    for sha256, devices in runs.items():
        rollouts.insert(conn, known[sha256], "floor", [devices], reason)
    told = sorted(device for devices in runs.values() for device in devices)
    inputs = {"before": now, "told": told, "later": later}
    decisions.record(conn, "floor", str(version), "raised", reason, inputs)
    return Raised(version, told, later)
