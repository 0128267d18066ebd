"""Where the journal's random ids are made."""

import secrets

_NONCE_BYTES = 12
_SECRET_BYTES = 32


def new_nonce() -> str:
    """The random part of an owner's token: no two owners of a shard ever have the same."""
    return secrets.token_hex(_NONCE_BYTES)


def new_secret() -> str:
    """What the coordinators of a deployment sign with."""
    return secrets.token_hex(_SECRET_BYTES)
