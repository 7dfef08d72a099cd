"""Turns a good bundle into one that does harm: it looks whole, passes its own canary, and alarms on nearly everything.

For the demo and for tests of what must happen then.
"""

from __future__ import annotations

import numpy as np

from models.bundle.files import Bundle, Canary, pack, unpack
from models.scoring import Scorer


def make_harmful(good: bytes, version: int) -> bytes:
    """The same models with a limit so high that ordinary windows count as far from normal.

    Returns:
        A packed bundle whose golden scores are its own, so that only watching it run can tell.
    """
    bundle = unpack(good)
    models = {name: data for name, data in bundle.files.items() if name.endswith(".onnx")}
    novelty = bundle.manifest.novelty
    fields = bundle.manifest.model_dump(exclude={"files"}) | {
        "version": version,
        "novelty": novelty.model_copy(update={"limit": novelty.limit + 60 * novelty.scale}),
        "origin": bundle.manifest.origin.model_copy(update={"note": "made harmful on purpose"}),
    }
    draft = unpack(pack(fields, models, bundle.canary))
    return pack(fields, models, _own_canary(draft))


def _own_canary(bundle: Bundle) -> Canary:
    scorer = Scorer(bundle)
    cases = []
    for case in bundle.canary.cases:
        scored = scorer.score(np.array(case.vector))
        cases.append(case.model_copy(update={"score": scored.score}))
    return bundle.canary.model_copy(update={"cases": tuple(cases)})
