"""The coordinator with a guard of shared state taken out, to show that those who look for such a fault find it: `--fault NAME`.

Its sessions break now and then, when what was asked for is done and isn't answered yet: that is no fault, and shows one that repeats.
"""

import sys
from collections.abc import Callable
from typing import Any

from coordinator import __main__ as command
from coordinator.rpc import state_session
from coordinator.state import key_scripts

ANSWERS_PER_BREAK = 40


def without(guard: str, instead: str) -> Callable[[], None]:
    """A fault: this part of the script is something else."""

    def seed() -> None:
        assert "coordinator.state.scripts" not in sys.modules, "the script is made of its parts already"
        assert key_scripts.TRANSACTION.count(guard) == 1, guard
        key_scripts.TRANSACTION = key_scripts.TRANSACTION.replace(guard, instead)  # type: ignore[misc]

    return seed


def stale_reads() -> None:
    """A fault: a read of a key answers what the last one of it found, which may be long ago, as if it were of now.

    One that said how old it is would be taken for a store that has lost writes, and not be answered.
    """
    from coordinator.state.redis_store import RedisStateStore

    get, known = RedisStateStore.get, {}

    async def answer(store: RedisStateStore, namespace: str, keys: Any, **options: Any) -> Any:
        name = tuple(keys)
        revision, now = await get(store, namespace, keys, **options)
        earlier, known[name] = known.get(name, now), now
        return revision, earlier

    RedisStateStore.get = answer  # type: ignore[method-assign, assignment]


FAULTS: dict[str, Callable[[], None]] = {
    "none": lambda: None,
    "any lock token": without("if not lock or sub(lock, 1, 8) ~= ARGV[i + 1] then", "if false then"),
    "any compare": without("if not holds(ARGV[i], ARGV[i + 1]) then", "if false then"),
    "repetitions count": without("else_length\n  local answer = sequence > 0 and repeated(name, sequence)", "else_length\n  local answer"),
    "stale reads": stale_reads,
}


def break_sessions() -> None:
    """Every so many answers of a session are lost with the stream, though what they are about is done."""
    next_message = state_session.StateSession.next_message
    sent: dict[int, int] = {}

    def lose_some(session: state_session.StateSession) -> bytes | None:
        message = next_message(session)
        sent[id(session)] = sent.get(id(session), 0) + (message is not None)
        if sent[id(session)] % ANSWERS_PER_BREAK == 0 and message is not None:
            session.close("broken by the test")
            return None
        return message

    state_session.StateSession.next_message = lose_some  # type: ignore[method-assign]


if __name__ == "__main__":
    at = sys.argv.index("--fault")
    FAULTS[sys.argv[at + 1]]()
    del sys.argv[at : at + 2]
    break_sessions()
    sys.exit(command.main())
