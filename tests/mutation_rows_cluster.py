"""The guards of several coordinators over one store."""

from tests.mutation_row import ENGINE, Mutation

CLUSTER = "coordinator/cluster/cluster.py"

CLUSTER_MUTATIONS = [
    Mutation(
        "a lease keeps others out",
        "coordinator/journal/memory_store.py",
        "    if shard.owner is not None and owner.lease_ms and shard.lease_until_ms > now_ms and owner.coordinator_id != me:\n",
        "    if False:\n",
    ),
    Mutation(
        "a lease ends by our own clock",
        ENGINE + "ownership.py",
        "        return self.lease_s > 0 and self._clock.now_s() - self._confirmed_s >= self.lease_s\n",
        "        return False\n",
    ),
    Mutation(
        "a shard moves to whoever has fewer",
        CLUSTER,
        "        if plan.give is not None and plan.give[0] not in self._given and now_s >= self._give_not_before_s:\n",
        "        if False:\n",
    ),
    Mutation(
        "a shard that is held is claimed when it is free",
        CLUSTER,
        "        ends += [self._not_before_s.get(number, now_s) - now_s for number in wanted]\n",
        "",
    ),
    Mutation("a shard that nobody claims is claimed by anybody", CLUSTER, "if now_s - since_s > self._lease_s]", "if False]"),
    Mutation(
        "what nobody takes is not given again at once",
        CLUSTER,
        "self._clock.now_s() + GIVE_PAUSE_LEASES * self._lease_s",
        "0.0",
    ),
    Mutation(
        "whoever is alone ends with its shard",
        CLUSTER,
        "isinstance(error, ShardLost) and not self._alone:",
        "isinstance(error, ShardLost):",
    ),
    Mutation(
        "nothing moves before all is served",
        "coordinator/cluster/balance.py",
        "    if not settled or not members or ",
        "    if not members or ",
    ),
]
