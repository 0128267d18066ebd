"""Runs the shards that are this coordinator's, and sees to it that it has its share of them. Nothing else claims a shard.

What it knows of the others comes from the register, and is a hint; a claim decides. So a view that is out of date costs a claim that is
refused, or a shard that moves once more, and never two coordinators that serve one shard.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from coordinator.cluster.balance import balance
from coordinator.cluster.directory import Directory, Owner
from coordinator.cluster.ports import HeldShard, LiveMember, Member, MemberRegistry
from coordinator.engine.ownership import RENEWALS_PER_LEASE, ShardLost
from coordinator.engine.shard import Shard
from coordinator.engine.store_calls import release
from coordinator.ports import ALONE, Claimant, Clock, StoreOutage

log = logging.getLogger(__name__)

OUTAGE_RETRY_S = 0.2
LISTEN_RETRY_S = 1.0
GOODBYE_S = 1.0  # a store that is out is no reason not to end
MARGIN_S = 0.01  # behind the end of a lease
MIN_PAUSE_S = 0.005
SUSPECT_SHARE = 0.4  # of a lease: whoever has no more left should have been heard of; its shards are read ahead
GIVE_PAUSE_LEASES = 5  # before anything more is given up, when nobody took what was


@dataclass(frozen=True, slots=True)
class View:
    """The coordinators that live and the owners of the shards, as last heard."""

    members: Sequence[Member] = ()
    owners: Mapping[int, Owner] | None = None


class Cluster:
    """One coordinator's part in it.

    Args:
        me: this coordinator, without its address and what it owns.
        lease_s: how long what it owns stays its own unheard.
        alone: whether nobody else can come to the store: then everything is its own at once.
        registry: who else is there.
        shards: all of them, by number; it runs some.
        directory: is kept up to date.
        clock: the machine's clock of durations.
    """

    def __init__(
        self,
        *,
        me: Member,
        lease_s: float,
        alone: bool,
        registry: MemberRegistry,
        shards: Sequence[Shard],
        directory: Directory,
        clock: Clock,
    ) -> None:
        self.view = View()
        self._me = me
        self._alone = alone
        self._lease_s = lease_s
        self._period_s = lease_s / RENEWALS_PER_LEASE
        self._registry = registry
        self._shards = shards
        self._directory = directory
        self._clock = clock
        self._running: dict[int, asyncio.Task[None]] = {}
        self._given: dict[int, str] = {}  # where a shard went that we gave up
        self._not_before_s: dict[int, float] = {}  # shards that somebody has: until when at least
        self._orphan_since_s: dict[int, float] = {}
        self._give_not_before_s = 0.0
        self._wake = asyncio.Event()
        self._changed = False  # something of ours, that others should hear of
        for shard in shards:
            shard.changed, shard.owner_address = self.changed, self.owner_address

    def reached(self, *, address: str, listen: str) -> None:
        """Before it runs: where others reach this coordinator, and what it is bound to."""
        self._me = replace(self._me, address=address, listen=listen)

    @property
    def has_others(self) -> bool:
        """Whether somebody is there who could take over."""
        return any(member.coordinator_id != self._me.coordinator_id and not member.leaving for member in self.view.members)

    @property
    def me(self) -> Member:
        """This coordinator, with what it owns now."""
        held = [shard for shard in self._shards if shard.number in self._running and shard.owned]
        return replace(self._me, shards=tuple(_held(shard) for shard in held))

    @property
    def shards(self) -> int:
        """How many there are."""
        return len(self._shards)

    def changed(self) -> None:
        """A shard of ours was claimed, is served, or isn't any more."""
        self._changed = True
        self._wake.set()

    def owner_address(self, number: int) -> str:
        """Where a shard is served that isn't ours any more; empty when that isn't known."""
        owner = self._directory.owner_of(number)
        known = owner.address if owner is not None and owner.coordinator_id != self._me.coordinator_id else ""
        return self._given.get(number, known)

    # --- life -----------------------------------------------------------------------------------------------------------------

    async def run(self, ready: asyncio.Event) -> None:
        """Takes its share and keeps it until cancelled. Sets `ready` once all that is ours to begin with is served.

        Raises:
            IdInUse: another coordinator that lives has this one's id.
            Exception: whatever else ended a shard, but that it was lost.
        """
        listening = asyncio.create_task(self._listen(), name="cluster.listen")
        try:
            while True:
                self._wake.clear()
                try:
                    pause_s = await self._round(ready)
                except StoreOutage as error:
                    log.debug("cluster.out reason=%s", error)
                    pause_s = min(OUTAGE_RETRY_S, self._period_s)
                try:
                    async with asyncio.timeout(max(pause_s, MIN_PAUSE_S)):
                        await self._wake.wait()
                except TimeoutError:
                    pass
        finally:
            listening.cancel()
            for shard in self._shards:
                shard.ahead.drop()
            running = list(self._running.values())
            for task in running:
                task.cancel()
            await asyncio.gather(listening, *running, return_exceptions=True)

    async def leave(self, *, within_s: float) -> None:
        """Hands over all that it owns, and takes nothing more. `run` goes on, to tell the others; cancel it afterwards."""
        self._me = replace(self._me, leaving=True)
        self.changed()
        for number, task in list(self._running.items()):
            shard = self._shards[number]
            if shard.serving:
                shard.hand_over()
            else:
                task.cancel()
        if self._running:
            await asyncio.wait(self._running.values(), timeout=within_s)

    async def gone(self) -> None:
        """Says good-bye, once `run` has ended. What is still ours is given up, so that nobody waits for the end of a lease."""
        try:
            async with asyncio.timeout(GOODBYE_S):
                await asyncio.gather(*(release(shard.store, offer_to="", offer_ms=0) for shard in self._shards if shard.owned))
                await self._registry.leave(self._me)
                await self._registry.nudge()
        except (StoreOutage, TimeoutError) as error:
            log.debug("cluster.not_left reason=%s", error)
        finally:
            await self._registry.close()

    async def _listen(self) -> None:
        while True:
            try:
                await self._registry.nudged()
            except StoreOutage as error:
                log.debug("cluster.deaf reason=%s", error)
                await asyncio.sleep(LISTEN_RETRY_S)
            self._wake.set()

    # --- one round ------------------------------------------------------------------------------------------------------------

    async def _round(self, ready: asyncio.Event) -> float:
        """Says that we live, hears who else does, and does what follows. Answers in how many seconds to look again."""
        self._reap()
        changed, self._changed = self._changed, False
        try:
            live = await self._registry.renew(self.me, ttl_s=self._lease_s)
        except StoreOutage:
            self._changed = self._changed or changed
            raise
        if changed:
            await self._registry.nudge()
        now_s = self._clock.now_s()
        owners = self._learn([one.member for one in live])
        wanted: list[int] = []
        if not self._me.leaving:
            self._read_ahead(live, owners)
            wanted = self._rebalance(owners, now_s=now_s)
            if not wanted and self._all_served():
                ready.set()
        return self._pause_s(live, wanted, now_s)

    def _rebalance(self, owners: Mapping[int, Owner], *, now_s: float) -> list[int]:
        """Claims and gives up what the balance asks for. Answers which shards are still to be claimed."""
        members = {member.coordinator_id for member in self.view.members if not member.leaving} | {self._me.coordinator_id}
        others_served = all(held.serving for member in self.view.members for held in member.shards)
        plan = balance(
            members=members,
            owners={number: owner.coordinator_id for number, owner in owners.items()},
            shards=len(self._shards),
            me=self._me.coordinator_id,
            settled=self._all_served() and others_served,
        )
        # Whoever should have claimed a shard and didn't for a while may see other coordinators than we do: then anybody does.
        late = [number for number, since_s in self._orphan_since_s.items() if now_s - since_s > self._lease_s]
        wanted = [number for number in sorted({*plan.claim, *late}) if number not in self._running]
        for number in wanted:
            if self._not_before_s.get(number, 0.0) <= now_s:
                self._start(number)
        if plan.give is not None and plan.give[0] not in self._given and now_s >= self._give_not_before_s:
            number, to = plan.give
            addresses = {member.coordinator_id: member.address for member in self.view.members}
            log.info("cluster.give shard=%d to=%s", number, to)
            self._given[number] = addresses[to]
            self._shards[number].hand_over(offer_to=to, offer_ms=round(self._lease_s * 1000))
        return [number for number in wanted if number not in self._running]

    def _read_ahead(self, live: Sequence[LiveMember], owners: Mapping[int, Owner]) -> None:
        """Begins to read what would be ours if those had died of whom nothing was heard for a while."""
        names = {one.member.coordinator_id for one in live if not one.member.leaving} | {self._me.coordinator_id}
        suspects = {one.member.coordinator_id for one in live if one.for_s <= SUSPECT_SHARE * self._lease_s}
        suspects -= {self._me.coordinator_id}
        left = {number: owner.coordinator_id for number, owner in owners.items() if owner.coordinator_id not in suspects}
        for number in left:
            if number not in self._running:
                self._shards[number].ahead.drop()
        if suspects:
            plan = balance(members=names - suspects, owners=left, shards=len(self._shards), me=self._me.coordinator_id)
            for number in plan.claim:
                if number in owners:
                    self._shards[number].ahead.begin()

    def _all_served(self) -> bool:
        return all(self._shards[number].serving for number in self._running)

    def _start(self, number: int) -> None:
        if self._given.pop(number, None) is not None:  # whoever it was for didn't take it
            self._give_not_before_s = self._clock.now_s() + GIVE_PAUSE_LEASES * self._lease_s
        self._not_before_s.pop(number, None)
        lease_ms = round(self._lease_s * 1000)
        asking = ALONE if self._alone else Claimant(self._me.coordinator_id, self._me.address, lease_ms)
        task = asyncio.create_task(self._shards[number].run(asyncio.Event(), asking), name=f"shard-{number}")
        self._running[number] = task
        task.add_done_callback(lambda _: self.changed())

    def _reap(self) -> None:
        """Lets go of shards that ended. Raises what ended one, if it wasn't that another coordinator has it."""
        for number, task in list(self._running.items()):
            if not task.done():
                continue
            del self._running[number]
            if task.cancelled():
                continue
            error = task.exception()
            if isinstance(error, ShardLost) and not self._alone:
                if error.held is not None:
                    self._not_before_s[number] = self._clock.now_s() + error.held.for_ms / 1000 + MARGIN_S
                else:
                    log.warning("cluster.lost shard=%d reason=%s", number, error)
                self._shards[number].owned = False
            elif error is not None:
                raise error

    def _learn(self, members: Sequence[Member]) -> dict[int, Owner]:
        """Takes in who lives, and says who owns what."""
        mine = self.me
        owners: dict[int, Owner] = {}
        for member in [*(one for one in members if one.coordinator_id != mine.coordinator_id), mine]:
            for held in member.shards:
                known = owners.get(held.number)
                if held.serving and member is not mine:
                    self._shards[held.number].lost.heard(held.epoch, held.sequence)
                if known is None or known.epoch < held.epoch:
                    owners[held.number] = Owner(member.coordinator_id, member.address, held.epoch, held.since_ms)
        now_s = self._clock.now_s()
        for number in range(len(self._shards)):
            if number in owners:
                self._orphan_since_s.pop(number, None)
                if owners[number].coordinator_id != mine.coordinator_id:
                    self._given.pop(number, None)
            else:
                self._orphan_since_s.setdefault(number, now_s)
            self._directory.set_owner(number, owners.get(number))
        self.view = View(members, owners)
        return owners

    def _pause_s(self, live: Sequence[LiveMember], wanted: Sequence[int], now_s: float) -> float:
        """Until somebody's time is over, or a shard's that we want, or we must say again that we live."""
        ends = [one.for_s + MARGIN_S for one in live if one.member.coordinator_id != self._me.coordinator_id]
        suspect_s = SUSPECT_SHARE * self._lease_s
        ends += [one.for_s - suspect_s for one in live if one.for_s > suspect_s and one.member.coordinator_id != self._me.coordinator_id]
        ends += [self._not_before_s.get(number, now_s) - now_s for number in wanted]
        return min([self._period_s, *ends])


def _held(shard: Shard) -> HeldShard:
    return HeldShard(
        number=shard.number,
        epoch=shard.epoch,
        since_ms=shard.since_ms,
        serving=shard.serving,
        sequence=shard.lost.sequence,  # of the last that is acknowledged: the one that is being written may never be
        snapshot_sequence=shard.snapshots.sequence,
    )
