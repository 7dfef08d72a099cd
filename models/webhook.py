"""One HTTP POST of JSON to a place of the user's, signed if there is a secret."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import urllib.error
import urllib.request
from typing import Annotated, Final

from pydantic import StringConstraints

Url = Annotated[str, StringConstraints(pattern=r"^https?://[^\s]+$")]
SIGNATURE: Final = "X-PDM-Signature"  # sha256=<hex>, HMAC of the body with the secret


class WebhookFailed(Exception):
    """Nobody answered, or not with 2xx."""


def signature(body: bytes, secret: bytes) -> str:
    return "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()


def post(url: str, body: bytes, secret: bytes | None, timeout_s: float) -> None:
    """Raises WebhookFailed."""
    headers = {"Content-Type": "application/json"} | ({SIGNATURE: signature(body, secret)} if secret else {})
    request = urllib.request.Request(url, body, headers, method="POST")  # noqa: S310 - Url allows http and https only
    try:
        with urllib.request.urlopen(request, timeout=timeout_s):  # noqa: S310
            pass
    except urllib.error.HTTPError as exc:
        raise WebhookFailed(f"answered {exc.code}") from exc
    except (OSError, http.client.HTTPException, ValueError) as exc:
        raise WebhookFailed(f"{type(exc).__name__}: {exc}") from exc
