"""What a bundle says of itself. The manifest is inside the bundle's bytes, so the approval's hash covers it."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, Field, model_validator

from models.contract.base import FeatureSet, Message, ModelName, ModelVersion, Score, Sha256, Text
from models.contract.signals import Signal, WindowSpec

MAX_OPSET: Final = 21  # of ONNX's standard operators: every onnxruntime from 1.20 on has it


class Novelty(Message):
    """The model that knows what is normal.

    "trained": `file` maps features float32[1, n_inputs] to `raw` float32[1], larger is more normal (a log-likelihood);
    the score is 1 / (1 + exp((raw - limit) / scale)), so 0.5 at the limit.
    "self": `file` maps features[1, k], center[k], whiten[k, r], limit[1] to the score; what is normal is learned on the
    device from each asset's own first windows, worth `learn` that do not overlap (models.selfref).
    "relative": as "trained", with center[n_inputs] beside the features: the medians of each asset's own first windows,
    worth `learn`, learned on the device. Its limit is trained, and says how far from its beginning a machine may be.
    """

    file: Literal["novelty.onnx"] = "novelty.onnx"
    calibration: Literal["trained", "self", "relative"]
    limit: float = 0.0
    scale: Annotated[float, Field(gt=0)] = 1.0
    learn: Annotated[int, Field(ge=8)] = 20  # windows that share no sample


class Classifier(Message):
    """features float32[1, n_inputs] to probabilities float32[1, len(classes)]; one class is "normal"."""

    file: Literal["classifier.onnx"] = "classifier.onnx"
    classes: Annotated[tuple[Text, ...], Field(min_length=2, max_length=64)]


class Life(Message):
    """Remaining useful life: features float32[1, n_inputs] (models.life) to `life` float32[1, 1], in `unit`.

    The true remaining life of a new machine, cut at `cap`, lies between estimate - below and estimate + above, of the
    band that the estimate is in, with probability `coverage` (conformal, by machine).
    """

    file: Literal["life.onnx"] = "life.onnx"
    unit: Annotated[Text, Field(max_length=20)] = "s"
    cap: Annotated[float, Field(gt=0)]  # an estimate there means: at least so long
    every: Annotated[int, Field(ge=1)] = 1  # windows to a step
    channels: Annotated[tuple[Text, ...], Field(min_length=1, max_length=512)]
    conditions: tuple[Text, ...] = ()  # channels that say how the machine is run
    condition_scales: tuple[Annotated[float, Field(gt=0)], ...] = ()
    centers: Annotated[tuple[tuple[float, ...], ...], Field(max_length=32)] = ()
    reach: Annotated[float, Field(ge=0)] = 0.0  # further from every centre, a condition is one nobody trained on
    means: Annotated[tuple[tuple[float, ...], ...], Field(min_length=1, max_length=32)]  # by condition and channel
    spreads: tuple[tuple[Annotated[float, Field(gt=0)], ...], ...]
    coverage: Annotated[float, Field(gt=0, lt=1)]
    bands: tuple[float, ...] = ()  # where one band of estimates ends and the next begins
    below: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1)]
    above: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _fits(self) -> Life:
        n, m, c = max(1, len(self.centers)), len(self.channels), len(self.conditions)
        tables = {len(row) for row in (*self.means, *self.spreads)}
        if tables != {m} or {len(self.means), len(self.spreads)} != {n}:
            raise ValueError("means and spreads need a row a condition and a number a channel")
        if len(self.condition_scales) != c or {len(row) for row in self.centers} - {c} or (c and not self.centers):
            raise ValueError("centers and condition_scales need a number a condition channel")
        if {len(self.below), len(self.above)} != {len(self.bands) + 1} or list(self.bands) != sorted(self.bands):
            raise ValueError("below and above need a number a band, bands rise")
        return self


class Usual(Message):
    """What is usual for one input, for the explanation of an alarm: centre and spread on normal windows."""

    center: float
    spread: Annotated[float, Field(gt=0)]


class AlarmRule(Message):
    """When scores become an episode: hysteresis in score and in windows (ISO 13374 state detection)."""

    raise_at: Score = 0.5
    clear_at: Score = 0.4
    raise_after: Annotated[int, Field(ge=1)] = 3  # windows in a row at or over raise_at
    clear_after: Annotated[int, Field(ge=1)] = 5  # windows in a row under clear_at
    smooth: Annotated[int, Field(ge=1, le=101)] = 1  # the score that counts is the median of so many

    @model_validator(mode="after")
    def _ordered(self) -> AlarmRule:
        if self.clear_at > self.raise_at:
            raise ValueError("clear_at must not be above raise_at")
        return self


class Origin(Message):
    """What the bundle was made from: the way back to datasets, runs and people."""

    trained_on: Literal["nothing", "files", "fleet"]
    dataset: Sha256 | None = None
    run: Text | None = None
    windows: int = 0
    labels: int = 0
    note: Annotated[Text, Field(max_length=500)] = ""


class Manifest(Message):
    """`signals` None: any signals, in the order of the device's configuration. `window` None: the device's own."""

    format: Literal[1] = 1
    name: ModelName
    version: ModelVersion
    created_at: AwareDatetime
    asset_kind: Text | None = None
    signals: tuple[Signal, ...] | None = None
    window: WindowSpec | None = None
    feature_set: FeatureSet
    min_agent: Annotated[Text, Field(pattern=r"^\d+(\.\d+)*$")] | None = None  # no older agent takes it
    inputs: tuple[Text, ...] | None = None  # the vector entries the models take, in order; None: chosen on the device
    usual: tuple[Usual, ...] | None = None  # as long as inputs
    novelty: Novelty
    classifier: Classifier | None = None
    life: Life | None = None
    alarm: AlarmRule = AlarmRule()
    files: dict[Text, Sha256]
    origin: Origin

    @model_validator(mode="after")
    def _whole(self) -> Manifest:
        named: set[str] = {self.novelty.file} | ({self.classifier.file} if self.classifier else set())
        named |= {self.life.file} if self.life else set()
        if missing := named - self.files.keys():
            raise ValueError(f"files does not list {', '.join(sorted(missing))}")
        if self.novelty.calibration != "self" and not (self.inputs and self.signals and self.window):
            raise ValueError("a trained bundle names its signals, window and inputs")
        return self


def new_enough(agent: str, wanted: str | None) -> bool:
    """Whether an agent of this version may take a bundle with this `min_agent`: by the numbers of the release alone."""
    found = re.match(r"\d+(\.\d+)*", agent)
    return wanted is None or (found is not None and _numbers(found[0]) >= _numbers(wanted))


def _numbers(version: str) -> list[int]:
    numbers = [int(part) for part in version.split(".")]
    while numbers and numbers[-1] == 0:  # 1.0 is 1
        numbers.pop()
    return numbers
