"""Bundles that are well formed, would be signed, and do harm: each with a graph that no device may run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from onnx import AttributeProto, ModelProto, StringStringEntryProto, TensorProto, helper, numpy_helper

from models.bundle.files import Bundle, pack, unpack
from tests.builders import a_bundle

F: Final = TensorProto.FLOAT
Change = Callable[[ModelProto], None]


def bundle_of(model: ModelProto | bytes, **manifest: Any) -> Bundle:
    """A bundle that would be taken but for this model, with the manifest and the golden score of `a_bundle`."""
    usual = a_bundle(2, **manifest)
    fields = usual.manifest.model_dump(exclude={"files"})
    blob = model if isinstance(model, bytes) else model.SerializeToString()
    return unpack(pack(fields, {"novelty.onnx": blob}, usual.canary))


def model_of(*nodes: Any, constants: tuple[TensorProto, ...] = (), width: int = 1, opset: int = 17) -> ModelProto:
    """features to raw. The last node gives `product`, unless there is none: then it is features times -1."""
    nodes = nodes or (helper.make_node("Neg", ["features"], ["product"]),)
    graph = helper.make_graph(
        [*nodes, helper.make_node("Reshape", ["product", "flat"], ["raw"])],
        "novelty",
        [helper.make_tensor_value_info("features", F, [1, width])],
        [helper.make_tensor_value_info("raw", F, [None])],
        [numpy_helper.from_array(np.array([-1]), "flat"), *constants],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def node(op: str, inputs: str = "features", output: str = "product", **attributes: Any) -> Any:
    return helper.make_node(op, inputs.split(), [output], **attributes)


def floats(name: str, *values: float) -> TensorProto:
    return numpy_helper.from_array(np.array(values, np.float32), name)


def wholes(name: str, *values: int) -> TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def refused_by_the_list() -> Iterator[tuple[str, Bundle, str]]:
    """Name, bundle, and a word of what is said of it."""
    yield "loop of 2^62", bundle_of(_loop()), "operator Loop"
    yield "if", bundle_of(model_of(node("If", "features", then_branch=_sub(), else_branch=_sub()))), "operator If"
    scan = node("Scan", "features", body=_sub(), num_scan_inputs=1)
    yield "scan", bundle_of(model_of(scan)), "operator Scan"
    hidden = node("Neg", body=_sub())
    yield "graph in an attribute of an allowed operator", bundle_of(model_of(hidden)), "attribute body"
    vast = TensorProto(name="vast", data_type=F, dims=[2**40])
    yield "4 TiB constant", bundle_of(model_of(constants=(vast,))), "more than"
    for op, inputs in (("ConstantOfShape", "size"), ("Expand", "features size"), ("Tile", "features size")):
        yield op, bundle_of(model_of(node(op, inputs), constants=(wholes("size", 2**40, 1),))), f"operator {op}"
    yield "non-zero", bundle_of(model_of(node("NonZero"))), "operator NonZero"
    yield "dice", bundle_of(model_of(node("RandomUniformLike"))), "operator RandomUniformLike"
    chain = [node("Neg", f"x{i}" if i else "features", f"x{i + 1}") for i in range(200_000)]
    yield "200,000 nodes", bundle_of(model_of(*chain, node("Neg", "x200000"))), "200002 nodes"
    yield "15 million empty nodes", bundle_of(_crowd()), ""
    yield "custom operator", bundle_of(model_of(node("Evil", domain="com.example"))), "operator com.example:Evil"
    yield "custom operator set", bundle_of(_changed(_custom_set)), "operators of 'com.example'"
    yield "local function", bundle_of(_changed(_function)), "functions"
    yield "training step", bundle_of(_changed(lambda m: m.training_info.add())), "training"
    for place in ("../secret", "/etc/passwd", "symlink.bin", "hardlink.bin"):
        yield f"data in {place}", bundle_of(model_of(constants=(_outside(place),))), "other files"
    yield "weights not a number", bundle_of(model_of(constants=(floats("w", np.nan),))), "no number"
    endless = helper.make_tensor("w", F, [1], [np.inf])
    yield "weights infinite", bundle_of(model_of(constants=(endless,))), "no number"
    scaler = node("Scaler", domain="ai.onnx.ml", offset=[0.0], scale=[float("nan")])
    yield "attribute not a number", bundle_of(model_of(scaler)), "no number"
    yield "half floats", bundle_of(model_of(constants=(_cast(np.float16),))), "type 10"
    short = TensorProto(name="w", data_type=F, dims=[100], raw_data=b"\0" * 8)
    yield "fewer bytes than it says", bundle_of(model_of(constants=(short,))), "holds 2"
    below = TensorProto(name="w", data_type=F, dims=[-4], raw_data=b"\0" * 16)
    yield "negative shape", bundle_of(model_of(constants=(below,))), "impossible shape"
    yield "sparse constant", bundle_of(_changed(lambda m: m.graph.sparse_initializer.add())), "sparse"
    yield "wrong width", bundle_of(model_of(width=7)), "has shape"
    yield "another input", bundle_of(_changed(_second_input)), "takes features, more"
    yield "another output", bundle_of(_changed(lambda m: m.graph.output.add(name="x"))), "gives"
    yield "future operators", bundle_of(model_of(opset=99)), "operator set 99"
    yield "future format", bundle_of(_changed(lambda m: setattr(m, "ir_version", 99))), "IR version 99"
    yield "no model at all", bundle_of(b"\xff" * 100), "not an ONNX model"
    yield "cut short", bundle_of(model_of().SerializeToString()[:-20]), "not an ONNX model"
    yield "a branch back to the root", bundle_of(_tree(yes=[0, 0, 0], no=[2, 0, 0])), "back to the root"
    yield "two branches to one node", bundle_of(_tree(yes=[1, 0, 0], no=[1, 0, 0])), "two branches"
    yield "a branch to nowhere", bundle_of(_tree(yes=[1, 0, 0], no=[77, 0, 0])), "out of range"
    yield "a feature that is not there", bundle_of(_tree(feature=10**6)), "feature that is not there"
    yield "a sum that is not there", bundle_of(_tree(sums=[0, 7])), "sum that is not there"
    yield "a weight at a branch", bundle_of(_tree(ends=[0, 2])), "no leaf"


def refused_by_the_run() -> Iterator[tuple[str, Bundle, str]]:
    """On the list, operator for operator."""
    double = [helper.make_node("Concat", [f"x{i}", f"x{i}"], [f"x{i + 1}"], axis=1) for i in range(36)]
    grows = [node("Neg", "features", "x0"), *double, node("ReduceSum", "x36", keepdims=0)]
    yield "256 GiB by doubling", bundle_of(model_of(*grows)), ""
    square = numpy_helper.from_array(np.full((1400, 1400), 1e-4, np.float32), "w")
    first = [node("Mul", "features w", "x0"), *[node("MatMul", f"x{i} w", f"x{i + 1}") for i in range(1500)]]
    yield (
        "hours of products",
        bundle_of(model_of(*first, node("ReduceSum", "x1500", keepdims=0), constants=(square,))),
        "",
    )
    yield "other scores than its own", bundle_of(model_of(node("Log"))), "canary window 0"
    yield "an operator without its input", bundle_of(model_of(node("Add", "features missing"))), "does not load"


def _changed(change: Callable[[ModelProto], object]) -> ModelProto:
    model = model_of()
    change(model)
    return model


def _sub() -> Any:
    out = helper.make_tensor_value_info("y", F, None)
    return helper.make_graph([helper.make_node("Identity", ["features"], ["y"])], "body", [], [out])


def _loop() -> ModelProto:
    bools, whole = TensorProto.BOOL, TensorProto.INT64
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["x", "x"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("i", whole, []),
            helper.make_tensor_value_info("go", bools, []),
            helper.make_tensor_value_info("x", F, None),
        ],
        [helper.make_tensor_value_info("on", bools, []), helper.make_tensor_value_info("y", F, None)],
    )
    constants = (
        numpy_helper.from_array(np.array(2**62), "n"),
        numpy_helper.from_array(np.array(True), "go"),
    )
    return model_of(helper.make_node("Loop", ["n", "go", "features"], ["product"], body=body), constants=constants)


def _crowd() -> bytes:
    """A graph of empty nodes, two bytes each, that take a parser a hundred times as much."""
    nodes = b"\x0a\x00" * 15_000_000
    size, varint = len(nodes), b""
    while size:
        varint += bytes([size & 0x7F | (0x80 if size > 0x7F else 0)])
        size >>= 7
    return b"\x08\x08" + b"\x3a" + varint + nodes


def _custom_set(model: ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def _function(model: ModelProto) -> None:
    body = [helper.make_node("Neg", ["a"], ["b"])]
    model.functions.append(helper.make_function("local", "F", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))


def _second_input(model: ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", F, [1]))


def _outside(place: str) -> TensorProto:
    where = StringStringEntryProto(key="location", value=place)
    return TensorProto(name="w", data_type=F, dims=[1], data_location=TensorProto.EXTERNAL, external_data=[where])


def _cast(dtype: Any) -> TensorProto:
    return numpy_helper.from_array(np.zeros(1, dtype), "w")


def _tree(
    yes: Any = (1, 0, 0), no: Any = (2, 0, 0), feature: int = 0, ends: Any = (1, 2), sums: Any = (0, 0)
) -> ModelProto:
    """A root and two leaves, unless it is told otherwise."""
    columns: dict[str, Any] = {
        "nodes_treeids": [0, 0, 0],
        "nodes_nodeids": [0, 1, 2],
        "nodes_featureids": [feature, 0, 0],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
        "nodes_values": [0.5, 0.0, 0.0],
        "nodes_truenodeids": list(yes),
        "nodes_falsenodeids": list(no),
        "target_treeids": [0, 0],
        "target_nodeids": list(ends),
        "target_ids": list(sums),
        "target_weights": [0.25, 0.75],
        "n_targets": 1,
    }
    made = node("TreeEnsembleRegressor", domain="ai.onnx.ml", **columns)
    assert {each.type for each in made.attribute} <= set(AttributeProto.AttributeType.values())
    return model_of(made)


def a_harmless_tree() -> Bundle:
    return bundle_of(_tree())
