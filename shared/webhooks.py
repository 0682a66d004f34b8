"""How webhooks are signed: as Standard Webhooks (https://www.standardwebhooks.com) has it, so that libraries fit.

Three headers: `webhook-id`, the same each time a message is sent; `webhook-timestamp`, when it was sent this time, in
Unix seconds; `webhook-signature`, `v1,` and the base64 of HMAC-SHA256 over "id.timestamp.body".
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping

from secondlook.shared.errors import ConfigError, SignatureRefused

ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"
TOLERANCE_SECONDS = 300.0

_PREFIX = "whsec_"
_LEAST_BYTES = 24


def parse_secret(text: str) -> bytes:
    """The key of a secret as it is handed around: `whsec_` and base64, 24 bytes at least. Raises ConfigError."""
    text = text.strip()
    try:
        key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not text.startswith(_PREFIX) or len(key) < _LEAST_BYTES:
        raise ConfigError(
            f"a secret of a webhook is {_PREFIX} and the base64 of {_LEAST_BYTES} random bytes or more"
        )
    return key


def signed_headers(key: bytes, uid: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers that go with a message."""
    signature = base64.b64encode(_mac(key, uid, str(timestamp), body)).decode()
    return {ID: uid, TIMESTAMP: str(timestamp), SIGNATURE: f"v1,{signature}"}


def check_signature(
    key: bytes, headers: Mapping[str, str], body: bytes, *, now: float, tolerance: float = TOLERANCE_SECONDS
) -> str:
    """The id of a message that somebody with the key sent lately; `now` is Unix seconds. Raises SignatureRefused."""
    lower = {name.lower(): value for name, value in headers.items()}
    uid, sent, signatures = (lower.get(name, "") for name in (ID, TIMESTAMP, SIGNATURE))
    if not (uid and sent.isascii() and sent.isdecimal() and len(sent) <= 12):
        raise SignatureRefused("the message carries no signature")
    expected = base64.b64encode(_mac(key, uid, sent, body)).decode()
    # Several, while a secret is being changed.
    given = [part.removeprefix("v1,") for part in signatures.split() if part.startswith("v1,")]
    if not any(hmac.compare_digest(one.encode(), expected.encode()) for one in given):
        raise SignatureRefused("the signature of the message is not that of its secret")
    if abs(now - int(sent)) > tolerance:
        raise SignatureRefused("the message was sent too long ago, or the clocks differ")
    return uid


def _mac(key: bytes, uid: str, timestamp: str, body: bytes) -> bytes:
    return hmac.digest(key, f"{uid}.{timestamp}.".encode() + body, hashlib.sha256)
