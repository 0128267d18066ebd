"""The guards of forwarding."""

from tests.mutation_row import Mutation

RPC = "coordinator/rpc/"

FORWARDING_MUTATIONS = [
    Mutation("one hop only", RPC + "forwarding.py", "if is_signed and not self._directory.is_mine(shard):", "if False:"),
    Mutation("one hop only, by name", RPC + "forwarding.py", "if is_forwarded and not self._directory.is_mine(shard):", "if False:"),
    Mutation("one hop only, though it moves", RPC + "forwarder.py", "if forwarded.get() is not None:", "if False:"),
    Mutation("claims of callers aren't handed on", RPC + "forwarder.py", "if key not in _NOT_HANDED_ON)", ")"),
    Mutation(
        "a method without a decision isn't served", RPC + "forwarding.py", 'return None if method.startswith("/muster.") else', "return"
    ),
    Mutation("a wrong signature", RPC + "peer_auth.py", "if not hmac.compare_digest(expected.encode(), signature.encode()):", "if False:"),
    Mutation("an old signature", RPC + "peer_auth.py", "if abs(date_ms - self._date_ms()) > VALID_MS:", "if False:"),
    Mutation("a signature is made anew", RPC + "peer_auth.py", "if not 0 <= now_ms - signed_ms < REUSED_MS:", "if not signed:"),
    Mutation(
        "a signature covers the caller",
        RPC + "peer_auth.py",
        'said.get(NAMESPACE_KEY, ""), caller, numbers)',
        'said.get(NAMESPACE_KEY, ""), numbers)',
    ),
    Mutation("repeated is what nobody touched", RPC + "forwarder.py", "if may_repeat and refused.is_untouched:", "if may_repeat:"),
    Mutation("repeated once", RPC + "forwarder.py", "                    may_repeat = False\n", "                    pass\n"),
    Mutation(
        "not after an answer",
        RPC + "forwarder.py",
        "        self.is_answered = True\n        self.can_repeat = False\n",
        "        self.is_answered = True\n",
    ),
    Mutation("not when more was sent than is kept", RPC + "forwarder.py", "if self._kept or len(message) > KEPT_FOR_REPEAT:", "if False:"),
    Mutation(
        "calls with an owner that hangs end", RPC + "forwarded_calls.py", "        self.call.cancel()\n\n\nclass", "        pass\n\n\nclass"
    ),
    Mutation("channels are let go", RPC + "forwarding.py", "self.peers.keep(self.directory.addresses())", "pass"),
    Mutation(
        "never half a list",
        RPC + "everywhere.py",
        "            if not directory.is_mine(shard):\n                raise moved(shard, directory.owner_of(shard))\n",
        "            pass\n",
    ),
    Mutation(
        "a shard that is recovered is waited for",
        RPC + "owners.py",
        "return self.directory.is_mine(shard) and self._is_served(shard)",
        "return self.directory.is_mine(shard)",
    ),
    Mutation("an unreachable owner is waited out", RPC + "owners.py", "            if left_s <= 0:\n", "            if True:\n"),
    Mutation("agents are sent on", RPC + "agent_stream.py", 'if error.reason == "SHARD_MOVED":', "if False:"),
]
