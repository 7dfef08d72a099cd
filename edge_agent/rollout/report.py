"""What the device says of its model switch besides each step: in every heartbeat, in `status` and on its page."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from edge_agent.bundles import Memory
from models.bundle.manifest import MAX_OPSET
from models.contract.features import FEATURE_SET
from models.contract.release import Capabilities, Evidence, Step

MODES: Final = ("trial", "rollback", "shadow")
MOST_DENIED: Final = 10  # in a heartbeat: the rest is refused all the same


@cache
def capabilities() -> Capabilities:
    try:
        runtime = version("onnxruntime")
    except PackageNotFoundError:
        runtime = "unknown"
    return Capabilities(feature_set=FEATURE_SET, runtime=runtime, max_opset=MAX_OPSET, modes=MODES)


def for_heartbeat(memory: Memory, problem: str) -> dict[str, Any]:
    """Fields of Heartbeat."""
    return {
        "capabilities": capabilities(),
        "floor": memory.get("floor", 0),
        "denied": tuple(memory.get("failed", []))[:MOST_DENIED],
        "switch_problem": problem_of(memory, problem),
    }


def problem_of(memory: Memory, problem: str = "") -> str:
    """What keeps the model from being what it should be; "": nothing."""
    if memory.get("step") == Step.INCONSISTENT:
        return str((memory.get("last") or {}).get("reason", "")) or "could not go back"
    return problem


def for_status(memory: Memory) -> dict[str, Any]:
    """The last step with its reason and numbers, for people and scripts at the device."""
    last = memory.get("last") or {}
    evidence = Evidence.model_validate(last["evidence"]).words() if last.get("evidence") else ""
    return {
        "step": memory.get("step", Step.ACTIVE.value),
        "reason": last.get("reason", ""),
        "numbers": evidence,
        "evidence": last.get("evidence"),
        "report": last.get("report"),
        "problem": problem_of(memory),
        "denied": len(memory.get("failed", [])),
        "floor": memory.get("floor", 0),
    }
