"""A bundle and a feature vector to a score in [0, 1]: the same code on the edge, in training and in the gate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.bundle.files import BadBundle, Bundle, CanaryCase
from models.contract.features import FEATURE_SET
from models.contract.labels import NORMAL
from models.life import Estimate, History, Steps, estimate, inputs, n_inputs
from models.selfref import Reference

Vector = NDArray[np.float64]


class Scored(NamedTuple):
    """`score` is nan if the model gave nothing finite. `fault_class` is the likeliest class but "normal"."""

    score: float
    fault_class: str | None
    probabilities: dict[str, float]


class Scorer:
    """A bundle ready to score, loaded from the bytes that were hashed; one thread, CPU."""

    def __init__(self, bundle: Bundle) -> None:
        """Raises BadBundle if the models do not load or belong to another feature set."""
        if bundle.manifest.feature_set != FEATURE_SET:
            raise BadBundle(f"feature set {bundle.manifest.feature_set}, this program computes {FEATURE_SET}")
        self.bundle = bundle
        self.manifest = bundle.manifest
        self._novelty = _session(bundle.files[self.manifest.novelty.file])
        classifier = self.manifest.classifier
        self._classifier = _session(bundle.files[classifier.file]) if classifier else None
        life = self.manifest.life
        self._life = _session(bundle.files[life.file]) if life else None
        if self._life and life and self._life.get_inputs()[0].shape[-1] != n_inputs(life):
            raise BadBundle(f"the remaining life's model does not take {n_inputs(life)} inputs")
        self._classes = classifier.classes if classifier else ()
        self._normal = self._classes.index(NORMAL) if NORMAL in self._classes else None
        self._faults = [i for i in range(len(self._classes)) if i != self._normal]
        sessions = [each for each in (self._novelty, self._classifier) if each]
        # How many vectors a graph takes is its first input's first dimension: a number, or any.
        self._takes_many = not any(isinstance(each.get_inputs()[0].shape[0], int) for each in sessions)

    @property
    def learns_on_device(self) -> bool:
        """True: needs a Reference for each asset before it can score."""
        return self.manifest.novelty.calibration != "trained"

    @property
    def relative(self) -> bool:
        """True: of that Reference it takes the center of its own inputs alone."""
        return self.manifest.novelty.calibration == "relative"

    def positions(self, names: Sequence[str]) -> NDArray[np.intp]:
        """Where this bundle's inputs stand in a vector with these names.

        Raises:
            BadBundle: the vector lacks an input.
        """
        where = {name: i for i, name in enumerate(names)}
        if missing := [name for name in self.manifest.inputs or () if name not in where]:
            raise BadBundle(f"the asset does not give {', '.join(missing[:5])}")
        return np.array([where[name] for name in self.manifest.inputs or ()], dtype=np.intp)

    def score(self, inputs: Vector, reference: Reference | None = None) -> Scored:
        """Score one vector: see `score_all`."""
        return self.score_all(inputs[None, :], reference)[0]

    def score_all(self, inputs: NDArray[np.float64], reference: Reference | None = None) -> list[Scored]:
        """Score vectors, in as few runs of the models as these allow: a run costs more than a vector in it.

        Args:
            inputs: float64[n, n_inputs], in the order of `positions`, or of the reference's own selection.
            reference: what is normal for this asset; only for a bundle that learns on the device.
        """
        x = inputs.astype(np.float32)
        if self._takes_many or len(x) == 1:
            return self._run(x, reference)
        return [scored for row in x for scored in self._run(row[None, :], reference)]

    def fits_life(self, steps: Steps) -> None:
        """Raises BadBundle: the model of remaining life takes a channel that these steps lack."""
        spec = self.manifest.life
        if spec and (missing := {*spec.channels, *spec.conditions} - set(steps.names)):
            raise BadBundle(f"remaining life needs {', '.join(sorted(missing))}"[:300])

    def life(self, history: History, steps: Steps) -> Estimate | None:
        """What is left, after the steps so far. None: in no step was the machine run as one trained on, or no model."""
        spec = self.manifest.life
        if spec is None:
            return None
        given = inputs(history, steps.names, spec)
        value = self._life_of(given) if np.isfinite(given).all() else math.nan
        return estimate(value, spec) if math.isfinite(value) else None

    def check_canary(self) -> None:
        """Score the bundle's own canary windows. Raises BadBundle if a golden score is missed."""
        tolerance, cases = self.bundle.canary.tolerance, self.bundle.canary.cases
        found = [self.score(np.array(case.vector), _reference(case)) for case in cases]
        if not self.learns_on_device:  # together they must come out as alone
            found += self.score_all(np.array([case.vector for case in cases]))
        for i, (case, got) in enumerate(zip(cases * (len(found) // len(cases)), found, strict=True)):
            off = [abs(got.score - case.score)]
            if case.probabilities is not None:
                off += [abs(a - b) for a, b in zip(got.probabilities.values(), case.probabilities, strict=True)]
            if not max(off) <= tolerance:  # also when it is nan
                raise BadBundle(f"canary window {i}: {got.score:.6f} instead of {case.score:.6f}")
        if self.manifest.life:
            for life_case in self.bundle.canary.lives:
                value = self._life_of(np.array(life_case.inputs))
                if not abs(value - life_case.value) <= tolerance * self.manifest.life.cap:
                    raise BadBundle(f"remaining life: {value:.4f} instead of {life_case.value:.4f}")

    # -- inside -------------------------------------------------------------------------------------------------

    def _life_of(self, given: Vector) -> float:
        assert self._life is not None
        return float(self._life.run(["life"], {"features": given.astype(np.float32)[None, :]})[0].reshape(-1)[0])

    def _run(self, x: NDArray[np.float32], reference: Reference | None) -> list[Scored]:
        novelty = self._novelty_of(x, reference)
        if self._classifier is None:
            return [Scored(each, None, {}) for each in novelty]
        shares = self._classifier.run(["probabilities"], {"features": x})[0].tolist()
        return [self._joined(*each) for each in zip(novelty, shares, strict=True)]

    def _joined(self, novelty: float, shares: list[float]) -> Scored:
        likeliest = max(self._faults, key=shares.__getitem__)
        # A known fault alarms however ordinary the window looks, and the unknown alarms whatever the classes say.
        p_fault = 1.0 - shares[self._normal] if self._normal is not None else 0.0
        score = min(1.0, max(novelty, p_fault)) if math.isfinite(novelty + p_fault) else math.nan
        return Scored(score, self._classes[likeliest], dict(zip(self._classes, shares, strict=True)))

    def _novelty_of(self, x: NDArray[np.float32], reference: Reference | None) -> list[float]:
        feed = {"features": x}
        if self.learns_on_device:
            if reference is None:
                raise BadBundle("this bundle scores only after it has learned what is normal")
            feed["center"] = reference.center.astype(np.float32)
            if not self.relative:
                feed["whiten"] = reference.whiten.astype(np.float32)
                feed["limit"] = np.array([reference.limit], dtype=np.float32)
                found: list[float] = self._novelty.run(["score"], feed)[0].reshape(-1).tolist()
                return found
        raw = self._novelty.run(["raw"], feed)[0].reshape(-1).tolist()
        spec = self.manifest.novelty
        # Clipped: far beyond either end exp overflows, and the score is 0 or 1 all the same. nan stays nan.
        distances = ((each - spec.limit) / spec.scale for each in raw)
        return [math.nan if math.isnan(d) else 1.0 / (1.0 + math.exp(max(-60.0, min(60.0, d)))) for d in distances]


def _session(data: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # onnxruntime's errors have no common base but this
        raise BadBundle(f"a model does not load: {exc}"[:300]) from exc


def _reference(case: CanaryCase) -> Reference | None:
    if case.center is None:
        return None
    return Reference(np.array(case.center), np.array(case.whiten or ()), case.limit or 0.0)
