"""Builds the shipped baseline: `python -m models.baseline.build`. Needs the onnx package, which devices do not have."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, checker, helper

from models import selfref
from models.bundle.files import Canary, CanaryCase, pack, unpack
from models.bundle.manifest import AlarmRule, Novelty, Origin
from models.bundle.signing import SigningKey, public_pem
from models.contract.base import ModelRef
from models.contract.codec import dump
from models.contract.features import FEATURE_SET, vector_names
from models.contract.messages import Approval
from models.scoring import Scorer

OPSET = 17
IR_VERSION = 8  # the oldest that has the opset: devices' runtimes may be old


def novelty_onnx() -> bytes:
    """The score of models.selfref as a graph, for any asset: what is normal comes in as inputs.

    Inputs, all float32: features [1, m] as Selection.apply gives them, and a Reference: center [m], whiten [m, k],
    limit [1]. Output: score float32[1], T2 / (T2 + limit) with T2 = |(features - center) @ whiten|^2; nan for a nan.
    Computed in float64: a rare direction is a small difference of large products.
    """

    def value(name: str, *shape: str | int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    names = ("features", "center", "whiten", "limit")
    graph = helper.make_graph(
        [
            *(helper.make_node("Cast", [name], [f"{name}_64"], to=TensorProto.DOUBLE) for name in names),
            helper.make_node("Sub", ["features_64", "center_64"], ["deviation"]),
            helper.make_node("MatMul", ["deviation", "whiten_64"], ["whitened"]),
            helper.make_node("Mul", ["whitened", "whitened"], ["squares"]),
            helper.make_node("ReduceSum", ["squares", "axis"], ["t2"], keepdims=0),
            helper.make_node("Add", ["t2", "limit_64"], ["sum"]),
            helper.make_node("Div", ["t2", "sum"], ["score_64"]),
            helper.make_node("Cast", ["score_64"], ["score"], to=TensorProto.FLOAT),
        ],
        "novelty",
        [value("features", 1, "m"), value("center", "m"), value("whiten", "m", "k"), value("limit", 1)],
        [value("score", 1)],
        [helper.make_tensor("axis", TensorProto.INT64, [1], [1])],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="pdm-loop"
    )
    checker.check_model(model, full_check=True)
    blob: bytes = model.SerializeToString()
    return blob


def build(folder: Path) -> ModelRef:
    """Write the bundle, its approval and the public key to `folder`. The private key is gone when this returns."""
    signals = ("a", "b")
    vectors = np.random.default_rng(7).normal(size=(80, len(vector_names(signals))))
    selection = selfref.select(signals, rate_hz=1.0)
    reference = selfref.fit(vectors, selection)
    cases = []
    for shift in (0.0, 2.0, 20.0):
        x = selection.apply(vectors[0] + shift)
        # As float32, because that is what the graph is given.
        cases.append(
            CanaryCase(
                vector=tuple(map(float, x.astype(np.float32))),
                score=float(selfref.score(x, reference)),
                center=tuple(map(float, reference.center)),
                whiten=tuple(tuple(map(float, row)) for row in reference.whiten),
                limit=reference.limit,
            )
        )
    manifest = {
        "name": "pump",
        "version": 1,
        "created_at": datetime(2026, 11, 23, tzinfo=UTC),
        "feature_set": FEATURE_SET,
        "novelty": Novelty(calibration="self"),
        "alarm": AlarmRule(raise_at=0.5, clear_at=0.45, raise_after=3, clear_after=4),
        "origin": Origin(trained_on="nothing", note="learns on the device what is normal there"),
    }
    data = pack(manifest, {"novelty.onnx": novelty_onnx()}, Canary(tolerance=1e-3, cases=tuple(cases)))
    bundle = unpack(data)
    Scorer(bundle).check_canary()
    key = SigningKey.generate()
    approval = Approval(
        model=bundle.ref,
        size=len(data),
        feature_set=FEATURE_SET,
        approved_by="the project",
        approved_at=datetime.now(UTC),
        reason="the model that every agent starts with",
    )
    (folder / "baseline.bundle").write_bytes(data)
    (folder / "baseline.approval.json").write_bytes(dump(key.sign(approval)))
    (folder / "baseline.pub").write_bytes(public_pem(key.public))
    return bundle.ref


if __name__ == "__main__":
    print(build(Path(__file__).parent))
