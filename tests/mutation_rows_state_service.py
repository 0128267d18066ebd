"""The guards of the service of shared state."""

from tests.mutation_row import ENGINE, Mutation

RPC, CONVERT = "coordinator/rpc/", "coordinator/convert_state.py"

STATE_SERVICE_MUTATIONS = [
    Mutation("no control characters in keys", CONVERT, "if found := _CONTROL.search(key):", "if found := None:"),
    Mutation(
        "a key is written once in a transaction", CONVERT, "if key == other or (is_prefix and other.startswith(key)):", "if key == other:"
    ),
    Mutation("a write needs its attempt", RPC + "state_calls.py", "            if not is_current:", "            if False:"),
    Mutation(
        "whether an attempt is current waits for the journal",
        RPC + "state_calls.py",
        "            await self._shard.durable()",
        "            pass",
    ),
    Mutation(
        "reads come behind tied writes",
        RPC + "state_calls.py",
        "return max(self._last_write, self._tied.get(self._name, 0))",
        "return self._last_write",
    ),
    Mutation(
        "a session's reads come behind its writes",
        RPC + "state_calls.py",
        "return max(self._last_write, self._tied.get(self._name, 0))",
        "return self._tied.get(self._name, 0)",
    ),
    Mutation("whoever doesn't read is not read from", RPC + "state_session.py", "while self.is_full():", "while False:"),
    Mutation("waits for locks hold up nothing", RPC + "state_session.py", 'if name == "lock":', 'if name == "no":'),
    Mutation("one session is one client's", RPC + "state_session.py", 'if self._client_id not in ("", client_id):', "if False:"),
    Mutation("a call ends with a condition that failed", RPC + "state_service.py", 'response.HasField("conflict"):', "False:"),
    Mutation(
        "a part of a revision isn't the whole",
        RPC + "state_watching.py",
        "told.through_revision = event.revision - 1",
        "told.through_revision = event.revision",
    ),
    Mutation("only the latest session's end is a going", RPC + "agent_presence.py", "corner.sessions.get(agent_name) == session:", "True:"),
    Mutation("a deleted namespace's state goes", ENGINE + "deletion.py", " or await shard.state.purge(name, limit=limit)", ""),
    Mutation(
        "operators' limits hold", "coordinator/state/current_limits.py", "usual if policy is NO_LIMITS else _within(usual, policy)", "usual"
    ),
    Mutation(
        "a full store is told",
        "coordinator/state/current_limits.py",
        "if self._room.refusal() is None else self._full",
        "if True else usual",
    ),
]
