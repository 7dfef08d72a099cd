"""Compact ONNX of isolation forests and histogram gradient boosting, for skl2onnx to use instead of its own.

An isolation forest becomes one tree ensemble whose leaves weigh their path lengths, and two operators for the score;
the stock export looks every tree's leaf up in tables of its own, 2710 operators for 100 trees. Thresholds are rounded
down to float32, so that a float32 value goes the way that it goes in scikit-learn.

`register()` is called where models are exported. Inputs are float32, finite or (histogram boosting) nan. Outputs are
those of the stock converters: label and scores of a forest, label and probabilities of a classifier, a value.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from onnx import TensorProto
from skl2onnx import update_registered_converter
from skl2onnx.common.data_types import StringTensorType
from skl2onnx.common.shape_calculator import (
    calculate_linear_classifier_output_shapes,
    calculate_linear_regressor_output_shapes,
)
from skl2onnx.common.utils_classifier import get_label_classes
from skl2onnx.shape_calculators.isolation_forest import calculate_isolation_forest_output_shapes
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor, IsolationForest

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_LARGEST: Final = float(np.finfo(np.float32).max)
_EULER: Final = float(np.euler_gamma)


def register() -> None:
    """Have skl2onnx use these converters, in this process."""
    update_registered_converter(
        IsolationForest,
        "PdmIsolationForest",
        calculate_isolation_forest_output_shapes,
        _isolation_forest,
        options={"score_samples": [True, False]},
    )
    update_registered_converter(
        HistGradientBoostingClassifier,
        "PdmHistGradientBoostingClassifier",
        calculate_linear_classifier_output_shapes,
        _boosting_classifier,
        options={
            "zipmap": [True, False, "columns"],
            "output_class_labels": [False, True],
            "nocl": [True, False],
            "raw_scores": [False],
        },
    )
    update_registered_converter(
        HistGradientBoostingRegressor,
        "PdmHistGradientBoostingRegressor",
        calculate_linear_regressor_output_shapes,
        _boosting_regressor,
    )


class _Ensemble:
    """The attributes of one TreeEnsembleRegressor, tree by tree."""

    def __init__(self) -> None:
        self._nodes: dict[str, list[Any]] = {name: [] for name in _NODE_ATTRIBUTES}
        self._targets: dict[str, list[Any]] = {name: [] for name in _TARGET_ATTRIBUTES}
        self._n_trees = 0

    def add(
        self,
        feature: Ints,
        threshold: Floats,
        left: Ints,
        right: Ints,
        leaf: npt.NDArray[np.bool_],
        weight: Floats,
        target: int = 0,
        missing_left: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """One tree, arrays by node: x[feature] <= threshold goes left; a leaf adds its weight to the target."""
        n, tree = len(leaf), self._n_trees
        self._n_trees += 1
        inner = ~leaf
        missing = np.zeros(n, np.bool_) if missing_left is None else missing_left & inner
        for name, values in {
            "nodes_treeids": np.full(n, tree),
            "nodes_nodeids": np.arange(n),
            "nodes_featureids": np.where(inner, feature, 0),
            "nodes_truenodeids": np.where(inner, left, 0),
            "nodes_falsenodeids": np.where(inner, right, 0),
            "nodes_missing_value_tracks_true": missing.astype(np.int64),
            "nodes_values": np.where(inner, _rounded_down(threshold), 0.0),
            "nodes_modes": np.where(leaf, "LEAF", "BRANCH_LEQ"),
        }.items():
            self._nodes[name] += values.tolist()
        ends = np.flatnonzero(leaf)
        for name, values in {
            "target_treeids": np.full(len(ends), tree),
            "target_nodeids": ends,
            "target_ids": np.full(len(ends), target),
            "target_weights": weight[ends].astype(np.float32),
        }.items():
            self._targets[name] += values.tolist()

    def write(self, scope: Any, container: Any, given: str, to: str, base: Floats) -> None:
        """The operator, from float32[n, m] to float32[n, len(base)]."""
        container.add_node(
            "TreeEnsembleRegressor",
            [given],
            [to],
            op_domain="ai.onnx.ml",
            op_version=1,
            name=scope.get_unique_operator_name("Trees"),
            n_targets=len(base),
            base_values=[float(b) for b in base],
            **self._nodes,
            **self._targets,
        )


_NODE_ATTRIBUTES: Final = (
    "nodes_treeids",
    "nodes_nodeids",
    "nodes_featureids",
    "nodes_truenodeids",
    "nodes_falsenodeids",
    "nodes_missing_value_tracks_true",
    "nodes_values",
    "nodes_modes",
)
_TARGET_ATTRIBUTES: Final = ("target_treeids", "target_nodeids", "target_ids", "target_weights")


def _rounded_down(threshold: Floats) -> npt.NDArray[np.float32]:
    """The largest float32 not above: a float32 is at most the one exactly where it is at most the other. An infinite
    threshold (only nan goes right) becomes the largest number."""
    inside = np.clip(threshold, -_LARGEST, _LARGEST)
    near = inside.astype(np.float32)
    return np.where(near > inside, np.nextafter(near, np.float32(-np.inf)), near).astype(np.float32)


def _isolation_forest(scope: Any, operator: Any, container: Any) -> None:
    """score_samples = -2^(-mean path length / c(max_samples)), Liu, Ting and Zhou, Isolation Forest (2008), 1 and 2.

    The leaves weigh -ln 2 of that exponent's share of theirs, so their sum needs exp and a sign.
    """
    forest = operator.raw_operator
    n_trees, usual = len(forest.estimators_), float(_average_path(np.array([forest.max_samples_]))[0])
    # Of one sample a tree tells nothing, and scikit-learn takes every path for an average one.
    per_step = -np.log(2) / n_trees / (usual or 1.0)
    ensemble = _Ensemble()
    for estimator, columns in zip(forest.estimators_, forest.estimators_features_, strict=True):
        tree = estimator.tree_
        leaf = tree.children_left < 0
        path = _depth(tree.children_left, tree.children_right) + _average_path(tree.n_node_samples)
        ensemble.add(
            np.asarray(columns)[np.where(leaf, 0, tree.feature)],
            tree.threshold,
            tree.children_left,
            tree.children_right,
            leaf,
            per_step * (path if usual else np.ones(len(leaf))),
        )
    exponent, likeness = scope.get_unique_variable_name("exponent"), scope.get_unique_variable_name("likeness")
    ensemble.write(scope, container, operator.inputs[0].full_name, exponent, np.zeros(1))
    outputs = [output.full_name for output in operator.outputs]
    samples = outputs[2] if len(outputs) > 2 else scope.get_unique_variable_name("score_samples")
    offset, inlier, mark, one = (scope.get_unique_variable_name(n) for n in ("offset", "inlier", "mark", "one"))
    container.add_initializer(offset, TensorProto.FLOAT, [1], [float(forest.offset_)])
    container.add_initializer(one, TensorProto.INT64, [1], [1])
    _node(scope, container, "Exp", [exponent], likeness)
    _node(scope, container, "Neg", [likeness], samples)
    _node(scope, container, "Sub", [samples, offset], outputs[1])
    # predict: -1 below 0, 1 from there on; 2 * (scores >= 0) - 1
    zero = scope.get_unique_variable_name("zero")
    container.add_initializer(zero, TensorProto.FLOAT, [1], [0.0])
    below = scope.get_unique_variable_name("below")
    _node(scope, container, "Less", [outputs[1], zero], below)
    _node(scope, container, "Not", [below], inlier)
    _node(scope, container, "Cast", [inlier], mark, to=TensorProto.INT64)
    twice = scope.get_unique_variable_name("twice")
    _node(scope, container, "Add", [mark, mark], twice)
    _node(scope, container, "Sub", [twice, one], outputs[0])


def _depth(left: Ints, right: Ints) -> Floats:
    """Of each node, in edges from the root; a parent comes before its children in scikit-learn's order."""
    depth = np.zeros(len(left))
    for node in range(len(left)):
        if left[node] >= 0:
            depth[left[node]] = depth[right[node]] = depth[node] + 1
    return depth


def _average_path(n: Ints) -> Floats:
    """c(n): edges of an unsuccessful search in a binary tree over n samples, by the estimate of the harmonic number."""
    many = np.maximum(n, 3).astype(np.float64)
    long = 2 * (np.log(many - 1) + _EULER) - 2 * (many - 1) / many
    return np.where(n <= 1, 0.0, np.where(n == 2, 1.0, long))


def _boosted(operator: Any, scope: Any, container: Any, to: str) -> int:
    """Write the sum of the trees to `to`; its width. Raises NotImplementedError: a split by category."""
    model = operator.raw_operator
    if model.is_categorical_ is not None and np.any(model.is_categorical_):
        raise NotImplementedError("histogram boosting with categorical features: ONNX's trees split by order only")
    ensemble = _Ensemble()
    for trees in model._predictors:
        for target, tree in enumerate(trees):
            nodes = tree.nodes
            ensemble.add(
                nodes["feature_idx"].astype(np.int64),
                nodes["num_threshold"],
                nodes["left"].astype(np.int64),
                nodes["right"].astype(np.int64),
                nodes["is_leaf"].astype(np.bool_),
                nodes["value"],
                target,
                nodes["missing_go_to_left"].astype(np.bool_),
            )
    base = np.ravel(model._baseline_prediction).astype(np.float64)
    ensemble.write(scope, container, operator.inputs[0].full_name, to, base)
    return len(base)


def _boosting_regressor(scope: Any, operator: Any, container: Any) -> None:
    output = operator.outputs[0].full_name
    positive = operator.raw_operator.loss in ("gamma", "poisson")  # their trees add up to the logarithm
    total = scope.get_unique_variable_name("total") if positive else output
    _boosted(operator, scope, container, total)
    if positive:
        _node(scope, container, "Exp", [total], output)


def _boosting_classifier(scope: Any, operator: Any, container: Any) -> None:
    label, probabilities = (output.full_name for output in operator.outputs[:2])
    total = scope.get_unique_variable_name("total")
    if _boosted(operator, scope, container, total) == 1:
        yes, no, one = (scope.get_unique_variable_name(name) for name in ("yes", "no", "one"))
        container.add_initializer(one, TensorProto.FLOAT, [1], [1.0])
        _node(scope, container, "Sigmoid", [total], yes)
        _node(scope, container, "Sub", [one, yes], no)
        _node(scope, container, "Concat", [no, yes], probabilities, axis=1)
    else:
        _node(scope, container, "Softmax", [total], probabilities, axis=1)
    best, classes, flat = (scope.get_unique_variable_name(name) for name in ("best", "classes", "shape"))
    words = isinstance(operator.outputs[0].type, StringTensorType)
    known = get_label_classes(scope, operator.raw_operator)
    values = [str(each).encode() for each in known] if words else [int(each) for each in known]
    container.add_initializer(classes, TensorProto.STRING if words else TensorProto.INT64, [len(values)], values)
    container.add_initializer(flat, TensorProto.INT64, [1], [-1])
    said = scope.get_unique_variable_name("said")
    _node(scope, container, "ArgMax", [probabilities], best, axis=1, keepdims=0)
    container.add_node(
        "ArrayFeatureExtractor", [classes, best], [said], op_domain="ai.onnx.ml", op_version=1, name=said
    )
    _node(scope, container, "Reshape", [said, flat], label)


def _node(scope: Any, container: Any, kind: str, given: list[str], output: str, **attributes: Any) -> None:
    container.add_node(kind, given, [output], name=scope.get_unique_operator_name(kind), **attributes)
