"""What an ONNX model in a bundle may be made of. Everything else is refused, before any runtime loads it.

`onnx.checker` lets a 4 TiB tensor, an endless loop and weights that are no numbers pass. Here an operator is on the
list or it is not: none that loops, calls a function, reads a file, comes from elsewhere, or gives a tensor whose size
depends on what is in another. So what one window needs in time and memory, every window needs, and one run measures it.
Trees must be trees: a branch that leads back would never end, and a feature that is not there would be read from memory
that belongs to something else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.bundle.files import BadBundle, Bundle
from models.bundle.manifest import MAX_OPSET
from models.bundle.onnx_proto import parse

MAX_IR: Final = 10
MAX_OPSETS: Final = {"": MAX_OPSET, "ai.onnx.ml": 4}
MAX_NODES: Final = 2000  # a chain of 200,000 takes a runtime 15 s to load
MAX_NUMBERS: Final = 2**23  # in all tensors and attributes together
MAX_RANK: Final = 6
MAX_TARGETS: Final = 64  # sums of a forest
_STANDARD: Final = """
    Abs Add And ArgMax ArgMin Cast Ceil Clip Concat Constant Div Elu Equal Erf Exp Flatten Floor Gather Gemm Greater
    GreaterOrEqual Identity LeakyRelu Less LessOrEqual Log LogSoftmax MatMul Max Mean Min Mul Neg Not Or Pow Reciprocal
    ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare
    Relu Reshape Round Selu Shape Sigmoid Sign Slice Softmax Softplus Split Sqrt Squeeze Sub Sum Tanh Transpose
    Unsqueeze Where Xor
"""
_LEARNED: Final = """
    ArrayFeatureExtractor Binarizer Imputer Normalizer Scaler TreeEnsembleClassifier TreeEnsembleRegressor
"""
OPERATORS: Final = {"": frozenset(_STANDARD.split()), "ai.onnx.ml": frozenset(_LEARNED.split())}
Ints = NDArray[np.int64]

_FLOAT: Final = 1
# data_type to the numpy type of raw_data, and the field that holds the numbers where there is no raw_data
_TYPES: Final = {
    1: ("<f4", "float_data"),
    6: ("<i4", "int32_data"),
    7: ("<i8", "int64_data"),
    9: ("?", "int32_data"),
    11: ("<f8", "double_data"),
}
_PLAIN_ATTRIBUTES: Final = {1, 2, 3, 4, 6, 7, 8}  # float, int, string, tensor and lists of the first three
_PLAIN_FIELDS: Final = {"name", "type", "f", "i", "t", "floats", "ints", "strings"}


def check(bundle: Bundle) -> None:
    """Every model of a bundle. Raises BadBundle, with what is not allowed."""
    manifest = bundle.manifest
    n = len(manifest.inputs) if manifest.inputs is not None else None
    if manifest.novelty.calibration == "trained":
        _check(bundle, manifest.novelty.file, {"features": (None, n)}, ("raw", None))
    elif manifest.novelty.calibration == "relative":
        _check(bundle, manifest.novelty.file, {"features": (None, n), "center": (n,)}, ("raw", None))
    else:
        wanted = {"features": (None, n), "center": (None,), "whiten": (None, None), "limit": (None,)}
        _check(bundle, manifest.novelty.file, wanted, ("score", None))
    if manifest.classifier:
        _check(
            bundle,
            manifest.classifier.file,
            {"features": (None, n)},
            ("probabilities", len(manifest.classifier.classes)),
        )
    if manifest.life:
        _check(bundle, manifest.life.file, {"features": (None, None)}, ("life", 1))


def opset(bundle: Bundle) -> int:
    """The highest one of the standard domain that its models ask for; 0: none does. Raises BadBundle."""
    try:
        wanted = [each for data in bundle.files.values() for each in parse(data).opset_import]
    except ValueError as exc:
        raise BadBundle(str(exc)) from exc
    return max((int(each.version) for each in wanted if _domain(each.domain) == ""), default=0)


def _check(
    bundle: Bundle, name: str, inputs: Mapping[str, tuple[int | None, ...]], output: tuple[str, int | None]
) -> None:
    try:
        model = parse(bundle.files[name])
        graph = model.graph
        _check_header(model)
        _check_ends(graph, inputs, output)
        left = _Numbers()
        for tensor in graph.initializer:
            left.take_tensor(tensor)
        features = inputs["features"][1] or _shape(graph.input[0])[-1]
        for node in graph.node:
            _check_node(node, left, features)
    except (ValueError, TypeError) as exc:
        raise BadBundle(f"{name}: {exc}"[:300]) from exc


def _check_header(model: Any) -> None:
    _need(1 <= model.ir_version <= MAX_IR, f"IR version {model.ir_version}, up to {MAX_IR} is allowed")
    _need(not model.functions and not model.training_info, "functions and training steps are not allowed")
    _need(len(model.opset_import) <= 8, "too many operator sets")
    for each in model.opset_import:
        most = MAX_OPSETS.get(_domain(each.domain))
        _need(most is not None, f"operators of {each.domain[:40]!r} are not allowed")
        _need(1 <= each.version <= (most or 0), f"operator set {each.version}, up to {most} is allowed")
    graph = model.graph
    _need(len(graph.node) <= MAX_NODES, f"{len(graph.node)} nodes, up to {MAX_NODES} are allowed")
    _need(len(graph.initializer) <= MAX_NODES, f"{len(graph.initializer)} constants, up to {MAX_NODES} are allowed")
    _need(not graph.sparse_initializer and not graph.quantization_annotation, "sparse constants are not allowed")


def _check_ends(graph: Any, inputs: Mapping[str, tuple[int | None, ...]], output: tuple[str, int | None]) -> None:
    """One window in, one answer out. An axis that is not fixed is the batch, or set by what it is fed."""
    found = [value.name for value in graph.input]
    _need(sorted(found) == sorted(inputs), f"takes {', '.join(found)[:80]}, not {', '.join(inputs)}")
    for value in graph.input:
        shape = _shape(value)
        wanted = inputs[value.name]
        fits = len(shape) == len(wanted) and all(None in (a, b) or a == b for a, b in zip(shape, wanted, strict=True))
        _need(fits, f"{value.name} has shape {shape}, not {wanted}")
        _need(value.name != "features" or shape[0] in (None, 1), "features come one window at a time")
    name, width = output
    _need([value.name for value in graph.output] == [name], f"gives {[v.name for v in graph.output]}, not {name}"[:120])
    last = (_shape(graph.output[0]) or [None])[-1]
    _need(width is None or last in (None, width), f"{name} is {last} wide, not {width}")


def _shape(value: Any) -> list[int | None]:
    tensor = value.type.tensor_type
    _need(tensor.elem_type == _FLOAT, f"{value.name} is not of type float")
    return [dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim]


def _check_node(node: Any, left: _Numbers, features: int | None) -> None:
    domain = _domain(node.domain)
    allowed = node.op_type in OPERATORS.get(domain, ())
    _need(allowed, f"operator {domain + ':' if domain else ''}{node.op_type} is not allowed"[:120])
    for attribute in node.attribute:
        held = {field.name for field, _ in attribute.ListFields()}
        plain = attribute.type in _PLAIN_ATTRIBUTES and held <= _PLAIN_FIELDS
        _need(plain, f"attribute {attribute.name} of {node.op_type} is not allowed"[:120])
        _need(math.isfinite(attribute.f), f"{attribute.name} of {node.op_type} is no number")
        if "t" in held:
            left.take_tensor(attribute.t)
        left.take(len(attribute.floats) + len(attribute.ints) + len(attribute.strings))
        _need(bool(np.isfinite(attribute.floats).all()), f"{attribute.name} of {node.op_type} holds what is no number")
    if node.op_type.startswith("TreeEnsemble"):
        _check_trees({attribute.name: attribute for attribute in node.attribute}, features)


def _check_trees(attributes: Mapping[str, Any], features: int | None) -> None:
    def ints(name: str) -> Ints:
        return np.array(attributes[name].ints if name in attributes else [], dtype=np.int64)

    trees, nodes, columns = ints("nodes_treeids"), ints("nodes_nodeids"), ints("nodes_featureids")
    yes, no, n = ints("nodes_truenodeids"), ints("nodes_falsenodeids"), len(trees)
    modes = attributes["nodes_modes"].strings if "nodes_modes" in attributes else []
    branch = np.array([mode != b"LEAF" for mode in modes], dtype=bool)
    _need(n > 0 and {len(each) for each in (nodes, columns, yes, no, branch)} == {n}, "a forest that is not whole")
    _need(len(ints("nodes_missing_value_tracks_true")) in (0, n), "a forest that is not whole")
    children = np.concatenate([yes[branch], no[branch]])
    for numbers in (trees, nodes, children):
        _need(_within(numbers, n), "a node's number is out of range")
    _need(features is not None and _within(columns[branch], features), "a tree asks for a feature that is not there")
    keys = trees * n + nodes
    ways = np.concatenate([trees[branch]] * 2) * n + children
    _need(len(np.unique(keys)) == n, "two nodes of a tree have one number")
    _need(bool(np.isin(ways, keys).all()), "a branch leads to a node that is not there")
    # Each node under one branch at most, and the root of each tree under none: then no way leads back.
    _need(len(np.unique(ways)) == len(ways), "two branches lead to one node")
    roots = keys[np.unique(trees, return_index=True)[1]]
    _need(not np.isin(roots, ways).any(), "a branch leads back to the root")
    ends, sums = ints("target_nodeids"), ints("target_ids")  # of a regressor: which leaf adds to which sum
    _need(len(ends) == len(sums) == len(ints("target_treeids")), "a forest that is not whole")
    _need(bool(np.isin(ints("target_treeids") * n + ends, keys[~branch]).all()), "a weight for what is no leaf")
    n_targets = attributes["n_targets"].i if "n_targets" in attributes else 1
    _need(_within(sums, max(1, min(n_targets, MAX_TARGETS))), "a leaf adds to a sum that is not there")


def _within(numbers: Ints, n: int) -> bool:
    return bool(((numbers >= 0) & (numbers < n)).all())


class _Numbers:
    """How many numbers a model may still hold."""

    def __init__(self) -> None:
        self._left = MAX_NUMBERS

    def take(self, n: int) -> None:
        self._left -= n
        _need(self._left >= 0, f"more than {MAX_NUMBERS} numbers")

    def take_tensor(self, tensor: Any) -> None:
        """Its numbers are all here, are numbers, and are as many as it says."""
        _need(not tensor.external_data and tensor.data_location == 0, "constants in other files are not allowed")
        _need(tensor.data_type in _TYPES and not tensor.HasField("segment"), f"constants of type {tensor.data_type}")
        _need(len(tensor.dims) <= MAX_RANK and all(d >= 0 for d in tensor.dims), "a constant of impossible shape")
        n = math.prod(tensor.dims)
        self.take(n)
        dtype, field = _TYPES[tensor.data_type]
        if tensor.HasField("raw_data"):
            there = len(tensor.raw_data) / np.dtype(dtype).itemsize
            values: Iterable[Any] = np.frombuffer(tensor.raw_data, dtype) if there == n else ()
        else:
            there, values = len(getattr(tensor, field)), getattr(tensor, field)
        _need(there == n, f"a constant of {n} numbers holds {there:g}")
        _need(bool(np.isfinite(np.asarray(values, dtype=np.dtype(dtype))).all()), "a constant holds what is no number")


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _need(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
