"""What can go wrong on the server, one class per way out.

FleetError
├── BadConfig     the configuration file; names every mistake
├── NotFound      there is no such thing
├── AttachmentRefused  a photo or sound is not taken
├── Refused       a rule forbids it; the text says which
└── NotReady      the database or broker is not there yet
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.form.api import Upload


class FleetError(Exception):
    """Shown to the user as it is; exit code 2."""


class BadConfig(FleetError):
    """The configuration is refused whole."""


class NotFound(FleetError):
    """There is no such device, event, bundle or rollout."""


class Refused(FleetError):
    """A rule forbids it."""


class NotReady(FleetError):
    """Something this needs is not there yet."""


class AttachmentRefused(FleetError):
    """A photo or sound is not taken. `code` is one of docs/form-api.md; `here`: how far it has come."""

    def __init__(self, code: str, text: str, here: Upload) -> None:
        super().__init__(text)
        self.code, self.here = code, here
