"""Where the journal's random ids are made."""

import secrets

_NONCE_BYTES = 12


def new_nonce() -> str:
    """The random part of an owner's token: no two owners of a shard ever have the same."""
    return secrets.token_hex(_NONCE_BYTES)
