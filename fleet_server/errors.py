"""What can go wrong on the server, one class per way out.

FleetError
├── BadConfig     the configuration file; names every mistake
├── NotFound      there is no such thing
├── Refused       a rule forbids it; the text says which
└── NotReady      the database or broker is not there yet
"""

from __future__ import annotations


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
