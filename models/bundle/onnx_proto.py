"""ONNX's own message format, as much of it as a check needs, for the protobuf runtime that onnxruntime brings along.

The `onnx` package would bring the same and 17 MB more, to every gateway. A test compares this table with its schema.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

# Message to field to (number, type); a type in capitals is another message, [] means repeated.
FIELDS: Final[dict[str, dict[str, tuple[int, str]]]] = {
    "ModelProto": {
        "ir_version": (1, "int64"),
        "graph": (7, "GraphProto"),
        "opset_import": (8, "OperatorSetIdProto[]"),
        "training_info": (20, "Anything[]"),
        "functions": (25, "Anything[]"),
    },
    "OperatorSetIdProto": {"domain": (1, "string"), "version": (2, "int64")},
    "GraphProto": {
        "node": (1, "NodeProto[]"),
        "initializer": (5, "TensorProto[]"),
        "input": (11, "ValueInfoProto[]"),
        "output": (12, "ValueInfoProto[]"),
        "quantization_annotation": (14, "Anything[]"),
        "sparse_initializer": (15, "Anything[]"),
    },
    "NodeProto": {
        "input": (1, "string[]"),
        "output": (2, "string[]"),
        "op_type": (4, "string"),
        "attribute": (5, "AttributeProto[]"),
        "domain": (7, "string"),
    },
    "AttributeProto": {
        "name": (1, "string"),
        "f": (2, "float"),
        "i": (3, "int64"),
        "t": (5, "TensorProto"),
        "g": (6, "Anything"),
        "floats": (7, "float[]"),
        "ints": (8, "int64[]"),
        "strings": (9, "bytes[]"),
        "tensors": (10, "Anything[]"),
        "graphs": (11, "Anything[]"),
        "tp": (14, "Anything"),
        "type_protos": (15, "Anything[]"),
        "type": (20, "int32"),
        "ref_attr_name": (21, "string"),
        "sparse_tensor": (22, "Anything"),
        "sparse_tensors": (23, "Anything[]"),
    },
    "TensorProto": {
        "dims": (1, "int64[]"),
        "data_type": (2, "int32"),
        "segment": (3, "Anything"),
        "float_data": (4, "float[]"),
        "int32_data": (5, "int32[]"),
        "int64_data": (7, "int64[]"),
        "raw_data": (9, "bytes"),
        "double_data": (10, "double[]"),
        "external_data": (13, "Anything[]"),
        "data_location": (14, "int32"),
    },
    "ValueInfoProto": {"name": (1, "string"), "type": (2, "TypeProto")},
    "TypeProto": {"tensor_type": (1, "Tensor")},
    "Tensor": {"elem_type": (1, "int32"), "shape": (2, "TensorShapeProto")},
    "TensorShapeProto": {"dim": (1, "Dimension[]")},
    "Dimension": {"dim_value": (1, "int64"), "dim_param": (2, "string")},
    "Anything": {},  # only whether it is there matters
}


def _model_class() -> Any:
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="pdm_onnx.proto", package="pdm.onnx", syntax="proto2")
    for name, fields in FIELDS.items():
        described = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            one = kind.removesuffix("[]")
            added = described.field.add(name=field, number=number)
            added.label = kinds.LABEL_REPEATED if one != kind else kinds.LABEL_OPTIONAL
            if one in FIELDS:
                added.type, added.type_name = kinds.TYPE_MESSAGE, f".pdm.onnx.{one}"
            else:
                added.type = kinds.Type.Value(f"TYPE_{one.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("pdm.onnx.ModelProto"))


_MODEL: Final = _model_class()


def parse(data: bytes) -> Any:
    """A ModelProto. Raises ValueError: these bytes are none."""
    try:
        return _MODEL.FromString(data)
    except message.DecodeError as exc:
        raise ValueError(f"not an ONNX model: {exc}"[:200]) from exc
