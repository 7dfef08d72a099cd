"""Several people's votes on one subject, to one label with a weight: a weighted majority vote.

1. A person has one vote, the last valid one. Its weight depends on where it comes from: what somebody said on purpose
   counts 1, a machine's fault code or trip 0.5, what was read from somebody's behaviour 0.3, another model's opinion
   0.1.
2. Votes for the same verdict and the same kind of fault add up. The largest sum wins if it has at least two thirds of
   all that was decided; otherwise the label is held, "no agreement", until somebody else has looked.
3. Who is unsure decides nothing, but makes the label weigh less: weight = winner / all votes * min(1, all votes / 2).
   One explicit vote gives 0.5, two that agree 1.0, a third that is unsure takes it to 0.67.
4. Less than MIN_DECIDED of weight in all is held: a model's opinion alone does not make a label.

The rule is the deterministic form of N. Littlestone and M. K. Warmuth, "The Weighted Majority Algorithm", Information
and Computation 108 (1994), with fixed weights by provenance; learned reliabilities (Dawid and Skene, 1979) need more
votes per person than a fleet's first months bring.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from fleet_server.feedback.validation import Status
from fleet_server.store.annotations import AnnotationRow
from models.contract.labels import Provenance, Verdict

WEIGHT: Final[dict[Provenance, float]] = {
    Provenance.EXPLICIT: 1.0,
    Provenance.AUTOMATED: 0.5,
    Provenance.IMPLICIT: 0.3,
    Provenance.MODEL: 0.1,
}
AGREEMENT: Final = 2 / 3
FULL: Final = 2.0  # as many explicit votes make a label as heavy as it gets
MIN_DECIDED: Final = 0.3
_CLOSE: Final = 1e-9  # two of three equal votes are two thirds


@dataclass(frozen=True)
class Consensus:
    """What the votes come to. Of a held one, verdict and fault are what leads."""

    verdict: str
    fault: str | None
    weight: float
    provenance: str
    status: Status
    reason: str
    annotations: tuple[UUID, ...]


def decide(votes: Sequence[AnnotationRow]) -> Consensus | None:
    """One label from the accepted annotations of one subject, one a person. None: nobody has a vote."""
    if not votes:
        return None
    sums: dict[tuple[str, str | None], float] = defaultdict(float)
    everything = 0.0
    for vote in votes:
        weight = WEIGHT[Provenance(vote.provenance)]
        everything += weight
        if vote.verdict != Verdict.UNSURE:
            sums[vote.verdict, vote.fault] += weight
    decided = sum(sums.values())
    ids = tuple(sorted(vote.annotation_id for vote in votes))
    if not sums:
        reason = "everybody who looked is unsure"
        return Consensus(Verdict.UNSURE.value, None, 0.0, _strongest(votes), Status.HELD, reason, ids)
    (verdict, fault), winner = max(sums.items(), key=lambda item: (item[1], item[0][0], item[0][1] or ""))
    backers = [vote for vote in votes if (vote.verdict, vote.fault) == (verdict, fault)]
    share = winner / decided
    status, reason = Status.ACCEPTED, f"{share:.0%} of the weight agrees, {len(backers)} of {len(votes)} votes"
    if share < AGREEMENT - _CLOSE:
        status, reason = Status.HELD, f"no agreement: {share:.0%} of the weight leads, {AGREEMENT:.0%} is needed"
    elif decided < MIN_DECIDED - _CLOSE:
        status, reason = Status.HELD, f"too little weight: {decided:.2g}, {MIN_DECIDED:g} is needed"
    weight = round(winner / everything * min(1.0, everything / FULL), 6) if status is Status.ACCEPTED else 0.0
    return Consensus(verdict, fault, weight, _strongest(backers), status, reason, ids)


def _strongest(votes: Sequence[AnnotationRow]) -> str:
    return max((Provenance(vote.provenance) for vote in votes), key=WEIGHT.__getitem__).value
