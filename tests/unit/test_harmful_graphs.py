"""Signed and harmful all the same: what is refused before it is loaded, in how long, and that scoring goes on."""

from __future__ import annotations

import io
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnx
import pytest
from onnx import onnx_ml_pb2

from edge_agent.errors import BundleRejected
from edge_agent.rollout.examine import examine
from edge_agent.rollout.machine import Rollout
from models.baseline import shipped
from models.bundle import graph
from models.bundle.files import BadBundle, Bundle, unpack
from models.bundle.onnx_proto import FIELDS
from models.bundle.signing import PublicKeys
from models.contract.messages import Body, RolloutStatus, Step
from models.contract.release import Cause
from tests.builders import DEVICE, Fleet, a_bundle, a_bundle_that_turns_nan
from tests.device import OLD, Device, chunks
from tests.faults.figures import Measured
from tests.harmful import a_harmless_tree, bundle_of, model_of, refused_by_the_list, refused_by_the_run
from tests.unit.test_switch import Machine

IN_TIME_S = 30.0
LISTED = {name: (bundle, word) for name, bundle, word in refused_by_the_list()}
RUN = {name: (bundle, word) for name, bundle, word in refused_by_the_run()}
TOO_LARGE_FOR_HERE = {"15 million empty nodes"}  # the reason why the list is looked at in a process of its own


@pytest.mark.parametrize("name", sorted(LISTED.keys() - TOO_LARGE_FOR_HERE))
def test_what_is_not_on_the_list_is_refused_with_its_name(name: str) -> None:
    bundle, word = LISTED[name]
    with pytest.raises(BadBundle) as refused:
        graph.check(bundle)
    assert word in str(refused.value)


@pytest.mark.parametrize("bundle", [a_bundle(), a_bundle_that_turns_nan(), shipped().bundle, a_harmless_tree()])
def test_what_this_project_makes_is_on_the_list(bundle: Bundle) -> None:
    graph.check(bundle)
    assert graph.opset(bundle) == 17


EVERY = {**LISTED, **RUN}
SOME = [*RUN, "loop of 2^62", "4 TiB constant", "200,000 nodes", "15 million empty nodes", "data in ../secret"]


@pytest.mark.parametrize("names", [SOME, pytest.param(list(EVERY), marks=pytest.mark.slow)], ids=["some", "all"])
def test_each_is_refused_in_time_by_a_process_that_may_die_of_it(names: list[str], measured: Measured) -> None:
    assert len(EVERY) > 40

    def tried(name: str) -> tuple[BundleRejected, float]:
        began = time.monotonic()
        wall_s = 6.0 if name == "hours of products" else IN_TIME_S  # it would take all there is
        with pytest.raises(BundleRejected) as refused:
            examine(EVERY[name][0], lambda: False, wall_s)
        return refused.value, time.monotonic() - began

    with ThreadPoolExecutor(3) as pool:
        found = dict(zip(names, pool.map(tried, names), strict=True))
    for name, (refused, seconds) in found.items():
        assert EVERY[name][1] in refused.reason, name
        assert refused.cause in (Cause.GRAPH, Cause.CANARY, Cause.FIT), name
        assert seconds < IN_TIME_S, name
    slowest = max(seconds for _, seconds in found.values())
    said = f"{len(names)} of {len(names)} refused, the slowest after {slowest:.1f} s"
    measured("I5", f"{len(names)} signed bundles with harmful graphs", "refused in <= 30 s", said)


def test_a_good_one_passes_and_a_check_can_be_broken_off() -> None:
    examine(a_bundle(), lambda: False)
    began = time.monotonic()
    with pytest.raises(BundleRejected, match="broken off"):
        examine(RUN["hours of products"][0], lambda: time.monotonic() - began > 1)
    assert time.monotonic() - began < 10


def test_the_check_sees_nothing_of_the_agents_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from edge_agent.rollout import examine as module

    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example")
    monkeypatch.setenv("PDM_SECRET", "x")
    assert not {"HTTPS_PROXY", "PDM_SECRET", "HOME"} & module._environment().keys()


def test_the_running_model_scores_on_while_harmful_ones_are_looked_at(tmp_path: Path) -> None:
    fleet = Fleet()
    bench = Device(tmp_path / "clock", fleet)  # lends its clock
    machine, alone = Machine(bench), Machine(bench)
    said: list[Body] = []
    keys = PublicKeys([fleet.approver.public]), PublicKeys([fleet.server.public])
    put, fetch = said.extend, lambda *_: None
    rollout = Rollout(DEVICE, tmp_path / "state", *keys, machine.detector, put, fetch, bench.clock, examine)
    rollout.start_up(OLD)
    alone.detector.run(OLD)
    thread = threading.Thread(target=rollout.loop, daemon=True)
    thread.start()
    names = ["loop of 2^62", "200,000 nodes", "256 GiB by doubling"]
    scored, bundles = 0, [{**LISTED, **RUN}[name][0] for name in names]
    for bundle in bundles:
        rollout.offer(fleet.offer(bundle, chunk_bytes=131072))
        for chunk in chunks(bundle, 131072):
            rollout.offer(chunk)
            time.sleep(0.01)
        deadline = time.monotonic() + 2 * IN_TIME_S
        while not any(
            isinstance(s, RolloutStatus) and s.step is Step.REJECTED and s.release == bundle.ref for s in said
        ):
            assert time.monotonic() < deadline
            began = time.monotonic()
            machine.run(1)
            scored += 1
            assert time.monotonic() - began < 5
            time.sleep(0.02)
    rollout.stop()
    thread.join(10)
    assert rollout.running == OLD.ref
    assert scored > 20
    assert machine.pipeline.windows == scored
    causes = [s.evidence.cause for s in said if isinstance(s, RolloutStatus) and s.evidence]
    assert causes == [Cause.GRAPH, Cause.GRAPH, Cause.CANARY]


def test_the_table_of_fields_is_onnx_own() -> None:
    theirs = dict(onnx_ml_pb2.DESCRIPTOR.message_types_by_name)
    theirs["Tensor"] = theirs["TypeProto"].nested_types_by_name["Tensor"]
    theirs["Dimension"] = theirs["TensorShapeProto"].nested_types_by_name["Dimension"]
    for name, fields in FIELDS.items():
        for field, (number, kind) in fields.items():
            known = theirs[name].fields_by_name[field]
            assert known.number == number, f"{name}.{field}"
            assert known.is_repeated == kind.endswith("[]"), f"{name}.{field}"
    # A kind of attribute that could hold more than numbers and is not in the table would not be seen: all are known.
    others = {f.name for f in theirs["AttributeProto"].fields} - FIELDS["AttributeProto"].keys()
    assert others == {"s", "doc_string"}
    kinds = onnx.AttributeProto
    plain = {kinds.FLOAT, kinds.INT, kinds.STRING, kinds.TENSOR, kinds.FLOATS, kinds.INTS, kinds.STRINGS}
    assert plain == graph._PLAIN_ATTRIBUTES


def test_an_archive_of_a_million_parts_is_not_opened() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for i in range(50):
            archive.writestr(f"part{i}", b"")
    with pytest.raises(BadBundle, match="too many parts"):
        unpack(buffer.getvalue())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in {"manifest.json": b" " * (9 * 2**20), "canary.json": b"{}"}.items():
            archive.writestr(name, data)
    with pytest.raises(BadBundle, match="JSON"):
        unpack(buffer.getvalue())


def test_a_graph_in_an_attribute_is_refused_whatever_its_type_says() -> None:
    """The runtime goes by the field or by the type; neither may hold a graph."""
    model = model_of()
    model.graph.node[0].attribute.add(name="body", type=onnx.AttributeProto.INT).g.name = "hidden"
    with pytest.raises(BadBundle, match="not allowed"):
        graph.check(bundle_of(model))
