"""Whole things with one thing changed: bundles, events, offers. What a test does not care about is filled in here."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np
from onnx import TensorProto, helper

from models.bundle.files import Bundle, Canary, CanaryCase, pack, unpack
from models.bundle.signing import SigningKey
from models.contract.alarms import Act, AlarmAction
from models.contract.base import ModelRef
from models.contract.commands import Command, CommandBody, CommandNote
from models.contract.events import AlarmEvent, Phase
from models.contract.features import FEATURE_SET, vector_names
from models.contract.ids import new_trace_id
from models.contract.labels import Verdict
from models.contract.messages import (
    Annotation,
    Approval,
    Assignment,
    Body,
    Column,
    Offer,
    Receipt,
    ReceiptNote,
    RolloutStatus,
    ScoredWindows,
    Step,
    TrialLimits,
)
from models.contract.signals import Signal, WindowSpec

NOW = datetime(2026, 3, 2, 8, tzinfo=UTC)
SIGNALS = (Signal(name="vib", unit="m/s2"),)
SPEC = WindowSpec(rate_hz=100.0, n_samples=50, hop=50)
USUAL = {"name": "pump", "version": 7, "sha256": "a" * 64}
DEVICE = "plant1.gw1"


def a_bundle(
    version: int = 2, *, limit: float = 0.5, gain: float = -1.0, name: str = "pump", **manifest: Any
) -> Bundle:
    """A trained bundle that looks at vib.rms alone: the score is 0.5 where it equals `limit`, and rises with it.

    Args:
        limit: on the RMS. A very low one alarms on everything.
        gain: of the model's raw output; nan gives scores that are no numbers, with a canary that does not see it.
    """
    fields: dict[str, Any] = {
        "name": name,
        "version": version,
        "created_at": NOW,
        "signals": SIGNALS,
        "window": SPEC,
        "feature_set": FEATURE_SET,
        "inputs": ("vib.rms",),
        "usual": ({"center": 0.1, "spread": 0.05},),
        "novelty": {"calibration": "trained", "limit": -limit, "scale": 0.05},
        "alarm": {"raise_at": 0.5, "clear_at": 0.4, "raise_after": 2, "clear_after": 2},
        "origin": {"trained_on": "files"},
    }
    golden = 1 / (1 + np.exp(np.clip((gain * 0.1 + limit) / 0.05, -60, 60)))
    case = CanaryCase(vector=(0.1,), score=float(golden) if np.isfinite(golden) else 0.0)
    return unpack(pack(fields | manifest, {"novelty.onnx": _times(gain)}, Canary(tolerance=1e-3, cases=(case,))))


def a_bundle_that_turns_nan(version: int = 3) -> Bundle:
    """Passes its canary, and gives no number for a vector over 0.2."""
    fields = a_bundle(version).manifest.model_dump(exclude={"files"})
    case = CanaryCase(vector=(0.1,), score=float(1 / (1 + np.exp(8.0))))
    return unpack(pack(fields, {"novelty.onnx": _nan_above()}, Canary(tolerance=1e-3, cases=(case,))))


def _times(gain: float) -> bytes:
    return _model([helper.make_node("Mul", ["features", "gain"], ["product"])], {"gain": gain})


def _nan_above() -> bytes:
    nodes = [
        helper.make_node("Sub", ["edge", "features"], ["left"]),
        helper.make_node("Sqrt", ["left"], ["root"]),  # nan over the edge
        helper.make_node("Mul", ["root", "zero"], ["nothing"]),
        helper.make_node("Mul", ["features", "minus"], ["turned"]),
        helper.make_node("Add", ["turned", "nothing"], ["product"]),
    ]
    return _model(nodes, {"edge": 0.2, "zero": 0.0, "minus": -1.0})


def _model(nodes: list[Any], constants: dict[str, float]) -> bytes:
    graph = helper.make_graph(
        [*nodes, helper.make_node("Reshape", ["product", "shape"], ["raw"])],
        "novelty",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, 1])],
        [helper.make_tensor_value_info("raw", TensorProto.FLOAT, [1])],
        [
            helper.make_tensor("shape", TensorProto.INT64, [1], [1]),
            *(helper.make_tensor(name, TensorProto.FLOAT, [1], [value]) for name, value in constants.items()),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    blob: bytes = model.SerializeToString()
    return blob


def an_event(**changes: Any) -> AlarmEvent:
    """An alarm just raised."""
    fields: dict[str, Any] = {
        "trace_id": new_trace_id(),
        "made_at": NOW,
        "event_id": uuid.uuid4(),
        "phase": Phase.RAISED,
        "asset": "pump1",
        "window_start": NOW,
        "window_end": NOW + timedelta(seconds=1),
        "opened_at": NOW,
        "score": 0.9,
        "threshold": 0.5,
        "model": USUAL,
        "feature_set": FEATURE_SET,
        "features": dict.fromkeys(vector_names(["vib"]), 0.5),
    }
    return AlarmEvent.model_validate(fields | changes)


def an_annotation(**changes: Any) -> Annotation:
    fields: dict[str, Any] = {
        "trace_id": new_trace_id(),
        "made_at": NOW,
        "annotation_id": uuid.uuid4(),
        "asset": "pump1",
        "start": NOW,
        "end": NOW + timedelta(minutes=1),
        "verdict": Verdict.FALSE_ALARM,
        "annotator": "Ada",
    }
    return Annotation.model_validate(fields | changes)


def an_action(action: Act, **changes: Any) -> AlarmAction:
    """Somebody did something about an alarm."""
    fields: dict[str, Any] = {
        "trace_id": new_trace_id(),
        "made_at": NOW,
        "action_id": uuid.uuid4(),
        "event_id": uuid.UUID(int=7),
        "asset": "pump1",
        "action": action,
        "actor": "Ada",
        "until": NOW + timedelta(hours=1) if action is Act.SNOOZE else None,
        "text": "hot" if action is Act.COMMENT else "",
        "level": int(action is Act.ESCALATE),
    }
    return AlarmAction.model_validate(fields | changes)


def some_scores(n: int = 3) -> ScoredWindows:
    """A prediction log of n windows. Stream telemetry."""
    return ScoredWindows(
        trace_id=new_trace_id(),
        made_at=NOW,
        asset="pump1",
        model=ModelRef.model_validate(USUAL),
        n=n,
        trace=Column.of("uuid", b"".join(uuid.uuid4().bytes for _ in range(n))),
        start_us=Column.of("i8", np.arange(n, dtype="<i8").tobytes()),
        end_us=Column.of("i8", np.arange(n, dtype="<i8").tobytes()),
        score=Column.of("f4", np.zeros(n, "<f4").tobytes()),
        alarm=Column.of("u1", bytes(n)),
        fault_class=Column.of("u1", b"\xff" * n),
        latency_us=Column.of("f4", np.ones(n, "<f4").tobytes()),
    )


def a_status(step: Step = Step.ACTIVE) -> Body:
    """Stream health."""
    model = ModelRef.model_validate(USUAL)
    return RolloutStatus(trace_id=new_trace_id(), made_at=NOW, assignment=1, release=model, step=step, running=model)


class Fleet:
    """The server's and the approver's side: two keys, and documents signed with them."""

    def __init__(self, device: str = DEVICE) -> None:
        self.device = device
        self.server, self.approver = SigningKey.generate(), SigningKey.generate()
        self.sequence = 0

    def assignment(self, bundle: Bundle, mode: Literal["trial", "rollback"] = "trial", **changes: Any) -> Assignment:
        """The next one."""
        self.sequence += 1
        fields: dict[str, Any] = {
            "device": self.device,
            "sequence": self.sequence,
            "mode": mode,
            "model": bundle.ref,
            "size": len(bundle.data),
            "chunk_bytes": 1024,
            "trial": TrialLimits(windows=16, max_seconds=20),
            "issued_at": NOW,
        }
        return Assignment.model_validate(fields | changes)

    def approval(self, bundle: Bundle, **changes: Any) -> Approval:
        fields: dict[str, Any] = {
            "model": bundle.ref,
            "size": len(bundle.data),
            "feature_set": FEATURE_SET,
            "approved_by": "Olga",
            "approved_at": NOW,
        }
        return Approval.model_validate(fields | changes)

    def offer(self, bundle: Bundle, mode: Literal["trial", "rollback"] = "trial", **changes: Any) -> Offer:
        """Signed by both; changes are to the assignment."""
        return Offer(
            assignment=self.server.sign(self.assignment(bundle, mode, **changes)),
            approval=self.approver.sign(self.approval(bundle)),
        )

    def command(self, what: CommandBody, **changes: Any) -> CommandNote:
        """The next one, good for a day."""
        self.sequence += 1
        fields: dict[str, Any] = {
            "device": self.device,
            "command_id": uuid.uuid4(),
            "sequence": self.sequence,
            "issued_at": NOW,
            "deadline": NOW + timedelta(days=1),
            "latest": what.state(),
            "body": what.model_dump(mode="json"),
        }
        return CommandNote(command=self.server.sign(Command.model_validate(fields | changes)))

    def receipt(self, epoch: str, stream: Any, up_to: int = 0, ranges: Any = (), **changes: Any) -> ReceiptNote:
        fields = {"device": self.device, "epoch": epoch, "stream": stream, "up_to": up_to, "ranges": ranges}
        return ReceiptNote(receipt=self.server.sign(Receipt.model_validate(fields | changes)))
