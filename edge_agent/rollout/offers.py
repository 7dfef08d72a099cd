"""Whose word counts, and what it may not ask for."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import ValidationError

from edge_agent.bundles import Memory
from models.baseline import keys as baseline_keys
from models.bundle.files import MAX_BUNDLE, Bundle
from models.bundle.signing import NotTrusted, PublicKeys
from models.contract.base import ModelRef
from models.contract.messages import Approval, Assignment, Offer, Signed
from models.contract.release import Cause


class Gatekeeper:
    """The keys of those who approve and of the server."""

    def __init__(self, device: str, approvers: PublicKeys | None, server: PublicKeys | None) -> None:
        self.device, self._approvers, self._server = device, approvers, server

    def opened(self, offer: Offer, baseline: ModelRef) -> tuple[Assignment, Approval]:
        """Both documents, signed by whom they must be and about the same bytes. Raises NotTrusted."""
        if self._server is None or self._approvers is None:
            raise NotTrusted("no keys are configured, so nobody may send releases")
        assignment = self._server.open(Assignment, offer.assignment)
        if assignment.device != self.device:
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

    def admit(self, model: ModelRef, signed: Any, baseline: ModelRef) -> None:
        """A file that somebody brought to the device. Without approvers' keys whoever is there decides.

        Raises:
            NotTrusted: approvers are configured, and this is not what enough of them signed.
        """
        if self._approvers is None:
            return
        try:
            approval = self.approval(Signed.model_validate(signed), baseline)
        except ValidationError as exc:
            raise NotTrusted("there is no approval with it") from exc
        if approval.model != model:
            raise NotTrusted(f"the approval is about {approval.model.name} {approval.model.version}")

    def local_order(self, bundle: Bundle, memory: Memory, at: datetime) -> Assignment:
        """As if the server had ordered it, with a sequence that counts for nothing."""
        return Assignment(
            device=self.device,
            sequence=max(memory.get("sequence", 0), 1),
            mode="trial",
            model=bundle.ref,
            size=len(bundle.data),
            floor=max(memory.get("floor", 0), 1),
            issued_at=at,
        )


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
