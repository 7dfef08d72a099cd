"""What can go wrong on the device, one class per way out.

AgentError
├── BadConfig        the configuration file; names every mistake
├── AlreadyRunning   another agent has this state folder
├── StateTooNew      a newer agent had this state folder
├── OutboxFailed     the outbox can not promise what it must
│   ├── DiskTrouble      the disk takes nothing now; it may later
│   └── OutboxDamaged    its file is; the next start sets it aside and begins a new one
├── AttachmentRefused  a photo or sound is not taken
├── BundleRejected   a model was refused; the running one is untouched
├── CommandRefused   a command of the server's is not done, and why
└── SourceFailed     a source can not be read as configured
"""

from __future__ import annotations

from models.contract.release import Cause
from models.form.api import Upload


class AgentError(Exception):
    """Shown to the user as it is; exit code 2."""


class BadConfig(AgentError):
    """The configuration is refused whole."""


class AlreadyRunning(AgentError):
    """Another agent runs on this state folder."""


class StateTooNew(AgentError):
    """A newer agent keeps in the state folder what this one would spoil."""


class OutboxFailed(AgentError):
    """The outbox's file can not be used."""


class DiskTrouble(OutboxFailed):
    """Nothing can be written now. `kind` is full, read-only, failing or busy."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"disk {kind}: {text}")
        self.kind = kind


class OutboxDamaged(OutboxFailed):
    """The outbox's file is damaged; the next start sets it aside."""


class BundleRejected(AgentError):
    """A model bundle was refused; the running model is untouched."""

    def __init__(self, what: str, reason: str, cause: Cause = Cause.UNUSABLE) -> None:
        super().__init__(f"{what} refused: {reason}")
        self.what = what
        self.reason = reason
        self.cause = cause


class CommandRefused(AgentError):
    """A command is not done; the reason goes to the server."""


class AttachmentRefused(AgentError):
    """A photo or sound is not taken. `code` is one of docs/form-api.md; `here`: how far it has come."""

    def __init__(self, code: str, text: str, here: Upload) -> None:
        super().__init__(text)
        self.code, self.here = code, here


class SourceFailed(AgentError):
    """A source can not be read as configured."""
