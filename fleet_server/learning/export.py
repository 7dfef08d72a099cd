"""Estimators to a bundle, and the proof that the bundle scores as they do, on the runtime that devices use."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from skl2onnx.helpers.onnx_helper import select_model_inputs_outputs
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LogisticRegression

from fleet_server.errors import Refused
from fleet_server.learning import compact, degradation, lives
from fleet_server.learning.dataset import Dataset, Floats
from fleet_server.learning.training import Distance, Fitted, halves, self_reference
from models import selfref
from models.baseline.build import novelty_onnx
from models.bundle import graph
from models.bundle.files import Bundle, Canary, CanaryCase, LifeCase, pack, unpack
from models.bundle.manifest import Classifier, Novelty, Origin
from models.contract.features import FEATURE_SET
from models.contract.labels import NORMAL
from models.scoring import Scored, Scorer

OPSET: Final = {"": 17, "ai.onnx.ml": 1}  # old enough for every runtime that a device may have
TOLERANCE: Final = 1e-4  # between estimator and ONNX, after the score's mapping
MAX_CANARIES: Final = 48
compact.register()


@dataclass(frozen=True)
class Said:
    """What a manifest says that the data do not."""

    name: str
    version: int
    created_at: datetime
    origin: Origin
    asset_kind: str | None = None


def export(
    fitted: Fitted, data: Dataset, said: Said, remaining: lives.FittedLife | None = None
) -> tuple[Bundle, dict[str, Any]]:
    """The bundle and what its proof measured.

    Raises:
        Refused: the ONNX models score differently from what was trained.
    """
    models = {"novelty.onnx": _novelty(fitted)}
    if fitted.classifier is not None:
        models["classifier.onnx"] = _classifier(fitted)
    life, golden = _life(remaining, models)
    manifest = (
        _about(data, said)
        | life
        | {
            "inputs": fitted.inputs,
            "usual": fitted.usual,
            "novelty": Novelty(calibration="trained", limit=fitted.limit, scale=fitted.scale),
            "classifier": Classifier(classes=fitted.classes) if fitted.classifier is not None else None,
            "alarm": fitted.alarm,
        }
    )
    cases = _canary_vectors(fitted, data)
    # Packed twice: the golden scores are those of the models as packed.
    draft = Scorer(unpack(pack(manifest, models, _canary(None, cases))))
    bundle = unpack(pack(manifest, models, _canary(draft, cases).model_copy(update={"lives": golden})))
    graph.check(bundle)  # no device would take it otherwise
    scorer = Scorer(bundle)
    scorer.check_canary()
    return bundle, _prove(scorer, fitted, data)


def export_self_learning(data: Dataset, said: Said, remaining: lives.FittedLife | None = None) -> Bundle:
    """A bundle that holds no limits: each asset's own first windows set them, on the device.

    Raises:
        Refused: no machine has enough normal windows to make golden scores from.
    """
    names, counts = np.unique(data.assets[data.classes == NORMAL], return_counts=True)
    machine = str(names[np.argmax(counts)])
    selection, reference, alarm = self_reference(data, np.concatenate(halves(data, machine)))
    normal = selection.apply(data.vectors[data.classes == NORMAL])
    cases = tuple(
        CanaryCase(
            vector=tuple(map(float, vector.astype(np.float32))),
            score=float(selfref.score(vector.astype(np.float32), reference)),
            center=tuple(map(float, reference.center)),
            whiten=tuple(tuple(map(float, row)) for row in reference.whiten),
            limit=reference.limit,
        )
        for vector in normal[np.linspace(0, len(normal) - 1, 6).astype(int)]
    )
    models = {"novelty.onnx": novelty_onnx()}
    life, golden = _life(remaining, models)
    manifest = _about(data, said) | life | {"novelty": Novelty(calibration="self"), "alarm": alarm}
    # Looser than for trained models: a device computes the reference in float64 and scores it in float32.
    bundle = unpack(pack(manifest, models, Canary(tolerance=1e-3, cases=cases, lives=golden)))
    graph.check(bundle)
    Scorer(bundle).check_canary()
    return bundle


def export_relative(
    fitted: degradation.FittedDegradation, data: Dataset, said: Said, remaining: lives.FittedLife | None = None
) -> Bundle:
    """A bundle that learns each asset's beginning on the device, and alarms by how far it has moved from there.

    Raises:
        BadBundle: the ONNX model scores differently from what was trained.
    """
    made, constants = degradation.nodes(fitted)
    n = len(fitted.sign.positions)
    models = {"novelty.onnx": _of_nodes("rise", made, n, "raw", [None], constants, {"center": [n]})}
    life, golden = _life(remaining, models)
    manifest = _about(data, said) | life
    manifest |= {
        "inputs": tuple(data.names[i] for i in fitted.sign.positions),
        "usual": fitted.usual,
        "novelty": fitted.novelty,
        "alarm": fitted.alarm,
    }
    center = np.array([usual.center for usual in fitted.usual])
    step = np.array([usual.spread for usual in fitted.usual])
    cases = []
    for shift in (-10.0, -1.0, 0.0, 1.0, 3.0, 10.0, 100.0):
        vector = (center + shift * step).astype(np.float32).astype(np.float64)
        off = (float(fitted.raw(vector, center)) + fitted.limit) / fitted.scale
        score = 1 / (1 + float(np.exp(np.clip(off, -60, 60))))
        cases.append(CanaryCase(vector=tuple(vector.tolist()), score=score, center=tuple(center.tolist())))
    bundle = unpack(pack(manifest, models, Canary(tolerance=1e-3, cases=tuple(cases), lives=golden)))
    graph.check(bundle)
    Scorer(bundle).check_canary()  # the golden scores are the estimator's
    return bundle


def _life(remaining: lives.FittedLife | None, models: dict[str, bytes]) -> tuple[dict[str, Any], tuple[LifeCase, ...]]:
    """What the manifest says of remaining life, and golden values; its model joins the others."""
    if remaining is None:
        return {}, ()
    models["life.onnx"], golden = lives.to_bundle(remaining)
    return {"life": remaining.spec}, golden


def _about(data: Dataset, said: Said) -> dict[str, Any]:
    return vars(said) | {"signals": data.signals, "window": data.window, "feature_set": FEATURE_SET}


def _novelty(fitted: Fitted) -> bytes:
    n = len(fitted.inputs)
    if isinstance(fitted.novelty, Distance):
        return _distance(fitted.novelty, n)
    mixture = fitted.novelty if isinstance(fitted.novelty, IsolationForest) else fitted.novelty.steps[-1][1]
    model = to_onnx(
        fitted.novelty,
        initial_types=[("features", FloatTensorType([None, n]))],
        options={id(mixture): {"score_samples": True}},
        target_opset=OPSET,
    )
    model = select_model_inputs_outputs(model, ["score_samples"])
    for node in model.graph.node:
        node.output[:] = ["raw_column" if name == "score_samples" else name for name in node.output]
    model.graph.node.append(helper.make_node("Reshape", ["raw_column", "flat"], ["raw"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1], np.int64), "flat"))
    return _plain(_with_output(model, "raw", [None]))


def _distance(model: Distance, n: int) -> bytes:
    """raw = -log(|(x - center) @ whiten|^2 + tiny)."""
    constants = {
        "center": model.reference.center.astype(np.float32),
        "whiten": model.reference.whiten.astype(np.float32),
        "tiny": np.array([1e-12], np.float32),
    }
    nodes = [
        helper.make_node("Sub", ["features", "center"], ["off"]),
        helper.make_node("MatMul", ["off", "whiten"], ["white"]),
        helper.make_node("ReduceSumSquare", ["white"], ["t2"], axes=[1], keepdims=0),
        helper.make_node("Add", ["t2", "tiny"], ["above"]),
        helper.make_node("Log", ["above"], ["log"]),
        helper.make_node("Neg", ["log"], ["raw"]),
    ]
    return _of_nodes("distance", nodes, n, "raw", [None], constants)


def _logistic(model: LogisticRegression, n: int) -> bytes:
    """softmax(x @ coefficients + intercepts), in operators whose shapes every runtime checks."""
    weights, intercepts = model.coef_, model.intercept_
    if len(weights) == 1:  # of two classes scikit-learn keeps only what tells the second from the first
        weights, intercepts = np.vstack([0 * weights, weights]), np.array([0.0, intercepts[0]])
    constants = {"weights": weights.T.astype(np.float32), "intercepts": intercepts.astype(np.float32)}
    nodes = [
        helper.make_node("Gemm", ["features", "weights", "intercepts"], ["evidence"]),
        helper.make_node("Softmax", ["evidence"], ["probabilities"], axis=1),
    ]
    return _of_nodes("logistic", nodes, n, "probabilities", [None, len(intercepts)], constants)


def _of_nodes(
    name: str,
    nodes: list[Any],
    n: int,
    output: str,
    shape: list[int | None],
    constants: dict[str, npt.NDArray[Any]],
    more: dict[str, list[int]] | None = None,
) -> bytes:
    """A model from features float32[_, n], and what `more` names, to one output."""
    graph = helper.make_graph(
        nodes,
        name,
        [
            helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, n]),
            *(helper.make_tensor_value_info(key, TensorProto.FLOAT, size) for key, size in (more or {}).items()),
        ],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.ascontiguousarray(value), key) for key, value in constants.items()],
    )
    return _plain(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET[""])]))


def _classifier(fitted: Fitted) -> bytes:
    if isinstance(fitted.classifier, LogisticRegression):
        return _logistic(fitted.classifier, len(fitted.inputs))
    model = to_onnx(
        fitted.classifier,
        initial_types=[("features", FloatTensorType([None, len(fitted.inputs)]))],
        options={id(fitted.classifier): {"zipmap": False, "output_class_labels": False}},
        target_opset=OPSET,
    )
    model = select_model_inputs_outputs(model, ["probabilities"])
    return _plain(_with_output(model, "probabilities", [None, len(fitted.classes)]))


def _with_output(model: onnx.ModelProto, name: str, shape: list[int | None]) -> onnx.ModelProto:
    """The model with this one output, of a stated type, which the selection loses; and without the constants of what is
    not selected, which it keeps: a calibrated classifier has the names of its classes among them."""
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    read = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def _plain(model: onnx.ModelProto) -> bytes:
    """Checked, and without the names of the programs that wrote it."""
    model.producer_name = model.producer_version = model.domain = model.doc_string = ""
    model.ir_version = min(model.ir_version, 8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _canary_vectors(fitted: Fitted, data: Dataset) -> Floats:
    """Normal windows, each fault, and what no window should look like."""
    chosen: list[int] = []
    for name in (NORMAL, *data.faults):
        rows = np.flatnonzero(data.classes == name)
        chosen += rows[np.linspace(0, len(rows) - 1, min(len(rows), 8 if name == NORMAL else 4)).astype(int)].tolist()
    center = np.array([usual.center for usual in fitted.usual])
    spread = np.array([usual.spread for usual in fitted.usual])
    extremes = [center, np.zeros_like(center), *(center + k * spread for k in (-1000, -10, -3, 3, 10, 1000))]
    seen = data.vectors[np.array(chosen, dtype=np.intp)][:, fitted.positions][: MAX_CANARIES - len(extremes)]
    return np.vstack([seen, *extremes]).astype(np.float32).astype(np.float64)


def _canary(scorer: Scorer | None, vectors: Floats) -> Canary:
    cases = []
    for vector in vectors:
        scored = scorer.score(vector) if scorer else Scored(0.0, None, {})
        cases.append(
            CanaryCase(
                vector=tuple(vector.tolist()),
                score=scored.score,
                probabilities=tuple(scored.probabilities.values()) or None,
            )
        )
    return Canary(tolerance=TOLERANCE, cases=tuple(cases))


def _prove(scorer: Scorer, fitted: Fitted, data: Dataset) -> dict[str, Any]:
    """Estimator against ONNX on all held-out rows, and on rows that nobody measured."""
    random = np.random.default_rng(data.seed)
    held = data.vectors[data.holdout] if data.holdout.any() else data.vectors
    center, spread = np.median(data.vectors, axis=0), data.vectors.std(axis=0)
    made = center + spread * random.normal(size=(256, len(data.names))) * random.uniform(0.1, 20, size=(256, 1))
    rows = np.vstack([held, made])
    raw, shares = fitted.raw(rows), fitted.probabilities(rows)
    expected = 1 / (1 + np.exp(np.clip((raw - fitted.limit) / fitted.scale, -60, 60)))
    if shares is not None:
        expected = np.maximum(expected, 1 - shares[:, list(fitted.classes).index(NORMAL)])
    got = [scorer.score(row[fitted.positions]) for row in rows]
    worst = float(np.max(np.abs(np.array([each.score for each in got]) - expected)))
    if shares is not None:
        given = np.array([list(each.probabilities.values()) for each in got])
        worst = max(worst, float(np.max(np.abs(given - shares))))
    if not worst <= TOLERANCE:  # also when it is nan
        raise Refused(f"the ONNX models score up to {worst:.2g} off what was trained, {TOLERANCE:g} is allowed")
    return {"rows": len(rows), "worst": worst}
