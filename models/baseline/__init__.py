"""The bundle that every agent starts with, its approval, and the key that signed it.

The private half was thrown away when the files were made (`python -m models.baseline.build`), so nobody can sign
another bundle with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from models.bundle.files import Bundle, unpack
from models.bundle.signing import NotTrusted, PublicKeys
from models.contract.messages import Approval, Signed

FOLDER: Final = Path(__file__).parent


class Shipped(NamedTuple):
    """A bundle with its approval."""

    bundle: Bundle
    approval: Signed


def shipped() -> Shipped:
    """The baseline, once its signature and its bytes hold. Raises NotTrusted, BadBundle, OSError."""
    approval = Signed.model_validate_json((FOLDER / "baseline.approval.json").read_bytes())
    bundle = unpack((FOLDER / "baseline.bundle").read_bytes())
    if keys().open(Approval, approval).model != bundle.ref:
        raise NotTrusted("the shipped baseline is not the one that was approved")
    return Shipped(bundle, approval)


def keys() -> PublicKeys:
    """The key that the baseline, and nothing else, is signed with."""
    return PublicKeys.read([FOLDER / "baseline.pub"])
