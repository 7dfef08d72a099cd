"""Whose word counts, and what it may not ask for."""

from __future__ import annotations

from edge_agent.bundles import Memory
from models.baseline import keys as baseline_keys
from models.bundle.files import MAX_BUNDLE
from models.bundle.signing import NotTrusted, PublicKeys
from models.contract.base import ModelRef
from models.contract.messages import Approval, Assignment, Offer, Signed
from models.contract.release import Cause


class Gatekeeper:
    """The keys of those who approve and of the server."""

    def __init__(self, device: str, approvers: PublicKeys | None, server: PublicKeys | None) -> None:
        self._device, self._approvers, self._server = device, approvers, server

    def opened(self, offer: Offer, baseline: ModelRef) -> tuple[Assignment, Approval]:
        """Both documents, signed by whom they must be and about the same bytes. Raises NotTrusted."""
        if self._server is None or self._approvers is None:
            raise NotTrusted("no keys are configured, so nobody may send releases")
        assignment = self._server.open(Assignment, offer.assignment)
        if assignment.device != self._device:
            raise NotTrusted(f"the assignment is for {assignment.device}")
        approval = self.approval(offer.approval, baseline)
        if approval.model != assignment.model or approval.size != assignment.size:
            raise NotTrusted("approval and assignment are not about the same release")
        return assignment, approval

    def approval(self, signed: Signed, baseline: ModelRef) -> Approval:
        """Raises NotTrusted: it is not signed by enough of the approvers."""
        try:
            if self._approvers is None:
                raise NotTrusted("no approvers' keys are configured")
            return self._approvers.open(Approval, signed)
        except NotTrusted:
            # The shipped baseline carries its own approval, with a key that signed nothing else.
            approval = baseline_keys().open(Approval, signed)
            if approval.model != baseline:
                raise
            return approval

    @property
    def has_approvers(self) -> bool:
        return self._approvers is not None


def forbidden(assignment: Assignment, size: int, memory: Memory) -> tuple[str, Cause] | None:
    """Why this release may not even be fetched; None: it may."""
    model = assignment.model
    if model.version < (floor := max(memory.get("floor", 0), assignment.floor)):
        return f"version {model.version} is below the floor {floor}", Cause.FLOOR
    if model.sha256 in {*memory.get("barred", []), *assignment.barred}:
        return "it is barred", Cause.BARRED
    if model.sha256 in memory.get("failed", []):
        return "it was sent away on this device before", Cause.DENIED
    if size > MAX_BUNDLE:
        return f"{size} bytes are more than {MAX_BUNDLE}", Cause.FETCH
    return None
