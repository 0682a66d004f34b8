"""`secondlook.verify_webhook`: whether a message that came is the station's. `docs/api.md` shows it at work."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec

from secondlook.shared.errors import SignatureRefused
from secondlook.shared.webhooks import ID, TOLERANCE_SECONDS, check_signature, parse_secret


def verify_webhook(
    body: bytes,
    headers: Mapping[str, str],
    secret: str,
    *,
    tolerance_seconds: float = TOLERANCE_SECONDS,
) -> dict[str, Any]:
    """What a webhook tells, once its signature was checked: `id`, `type`, `timestamp`, `data`.

    `body` is as it came, to the byte. A message may come twice: keep its `id`, and pass over what is known. Raises
    SignatureRefused for what nobody with the secret sent within `tolerance_seconds`, ConfigError for what is no secret.
    """
    check_signature(parse_secret(secret), headers, body, now=time.time(), tolerance=tolerance_seconds)
    try:
        told = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise SignatureRefused(f"the message is not JSON: {error}") from error
    uid = next(value for name, value in headers.items() if name.lower() == ID)
    return {"id": uid, **told}
