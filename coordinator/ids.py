"""The one place where the coordinator draws randomness: identifiers, nonces, jitter."""

import random
import secrets


class Entropy:
    """Randomness, from the system, or from a seed for a run that can be repeated.

    Args:
        seed: None for the system's randomness.
    """

    def __init__(self, *, seed: int | None = None) -> None:
        self._random = random.SystemRandom() if seed is None else random.Random(seed)
        # A system call per backoff would be waste: jitter needn't be unguessable.
        self._jitter = random.Random(self._random.getrandbits(64))

    def jitter(self) -> float:
        """Uniform in [0, 1)."""
        return self._jitter.random()

    def nonce(self) -> str:
        """128 bits in hexadecimal."""
        return f"{self._random.getrandbits(128):032x}" if not isinstance(self._random, random.SystemRandom) else secrets.token_hex(16)
