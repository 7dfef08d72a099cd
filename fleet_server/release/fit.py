"""Whether a device can take a release, by what it says of itself: asked before an order is given."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

from fleet_server.store.rollouts import DeviceRow
from models.bundle.manifest import Manifest, new_enough
from models.contract.health import AssetHealth
from models.contract.release import Capabilities


@dataclass(frozen=True)
class Wanted:
    """What a release asks of a device, in this mode."""

    manifest: Manifest
    sha256: str
    opset: int
    mode: str = "trial"


def misfit(wanted: Wanted, device: DeviceRow) -> str | None:
    """Why a device would not take it. None: it would, or it has not said."""
    said = device.heartbeat or {}
    return _denied(wanted, said) or _runtime(wanted, said) or _signals(wanted.manifest, said)


def _denied(wanted: Wanted, said: dict[str, object]) -> str | None:
    floor, denied = said.get("floor") or 0, said.get("denied") or []
    if isinstance(floor, int) and wanted.manifest.version < floor:
        return f"takes nothing below version {floor}"
    if isinstance(denied, list) and wanted.sha256 in denied:
        return "sent it away before (edge-agent model forgive, on the device)"
    return None


def _runtime(wanted: Wanted, said: dict[str, object]) -> str | None:
    agent = str(said.get("agent_version") or "")
    if agent and not new_enough(agent, wanted.manifest.min_agent):
        return f"runs agent {agent}, {wanted.manifest.min_agent} is needed"
    try:
        can = Capabilities.model_validate(said.get("capabilities"))
    except ValidationError:
        # An agent that says nothing of it knows trial and rollback.
        return "its agent knows no shadow" if agent and wanted.mode == "shadow" else None
    if can.feature_set != wanted.manifest.feature_set:
        return f"computes features {can.feature_set}, the release takes {wanted.manifest.feature_set}"
    if can.bundle_format < wanted.manifest.format:
        return f"reads bundles up to format {can.bundle_format}"
    if wanted.opset > can.max_opset:
        return f"has operators up to set {can.max_opset}, {wanted.opset} is needed"
    if wanted.mode not in can.modes:
        return f"its agent knows no {wanted.mode}"
    return None


def _signals(manifest: Manifest, said: dict[str, object]) -> str | None:
    if manifest.window is None or manifest.signals is None:
        return None
    wanted = {signal.name for signal in manifest.signals}
    assets = said.get("assets")
    for asset, raw in (assets if isinstance(assets, dict) else {}).items():
        try:
            health = AssetHealth.model_validate(raw)
        except ValidationError:
            continue
        if health.window is not None and health.window != manifest.window:
            return f"{asset} has windows of {health.window.n_samples} at {health.window.rate_hz:g} Hz"
        if health.signals and (missing := wanted - {signal.name for signal in health.signals}):
            return f"{asset} does not measure {', '.join(sorted(missing))}"
    return None
