"""Signatures as Standard Webhooks has them (https://www.standardwebhooks.com): whoever has the secret can tell who sent, and when."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable

PREFIX = "whsec_"
MIN_KEY_BYTES, MAX_KEY_BYTES = 24, 64


def key_of(secret: str) -> bytes:
    """The key that a secret stands for: what follows `whsec_`, in base64.

    Raises:
        ValueError: a sentence that doesn't repeat the secret.
    """
    wanted = f"give {PREFIX} and {MIN_KEY_BYTES} to {MAX_KEY_BYTES} random bytes in base64"
    if not secret.startswith(PREFIX):
        raise ValueError(f"doesn't begin with {PREFIX}: {wanted}")
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"isn't base64 behind {PREFIX}: {wanted}") from None
    if not MIN_KEY_BYTES <= len(key) <= MAX_KEY_BYTES:
        raise ValueError(f"stands for {len(key)} bytes: {wanted}")
    return key


def sign(secrets: Iterable[str], event_id: str, date_s: int, body: bytes) -> str:
    """The header `webhook-signature`: one signature for each secret, so that a receiver may change over from one to the next.

    Args:
        secrets: `whsec_...`, checked before.
        event_id: the header `webhook-id`.
        date_s: the header `webhook-timestamp`: seconds since 1970.
        body: of the request, as it is sent.
    """
    signed = b".".join((event_id.encode(), str(date_s).encode(), body))
    return " ".join("v1," + base64.b64encode(hmac.digest(key_of(secret), signed, hashlib.sha256)).decode() for secret in secrets)
