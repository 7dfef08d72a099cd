"""An isolation forest of 100 trees on one row: our export against the stock one of skl2onnx, both in this run."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
from skl2onnx import to_onnx, update_registered_converter
from skl2onnx.operator_converters.isolation_forest import convert_sklearn_isolation_forest
from skl2onnx.shape_calculators.isolation_forest import calculate_isolation_forest_output_shapes
from sklearn.ensemble import IsolationForest

from fleet_server.learning import compact
from tests.bench.figure import Bench, best_us


def one_row() -> tuple[float, float]:
    """Microseconds a row; and the stock export's over ours."""
    values = np.random.default_rng(0).normal(size=(1000, 21)).astype(np.float32)
    forest = IsolationForest(n_estimators=100, random_state=0).fit(values)

    def session(opset: int) -> Any:
        target = {"": 17, "ai.onnx.ml": opset}
        model = to_onnx(forest, values[:1], options={id(forest): {"score_samples": True}}, target_opset=target)
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        print(f"  {len(model.graph.node)} operators, {model.ByteSize()} bytes")
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    update_registered_converter(
        IsolationForest,
        "SklearnIsolationForest",
        calculate_isolation_forest_output_shapes,
        convert_sklearn_isolation_forest,
        options={"score_samples": [True, False]},
    )
    stock = session(3)
    compact.register()
    ours = session(1)
    wanted = forest.score_samples(values)
    off = [float(np.abs(s.run(["score_samples"], {"X": values})[0].ravel() - wanted).max()) for s in (stock, ours)]
    print(f"  furthest from scikit-learn over {len(values)} rows: stock {off[0]:.1e}, ours {off[1]:.1e}")
    assert off[1] <= 1e-5
    row = {"X": values[:1]}
    slow, fast = (best_us(lambda s=s: s.run(["score_samples"], row)) for s in (stock, ours))
    return fast, slow / fast


FIGURES = [Bench("trees_isolation_forest_row", "stock skl2onnx export", "us", 20, 50, "higher", one_row)]
