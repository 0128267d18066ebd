"""Clients of shared state that do something at random, and write down what they were answered: some keys, one of them under a lock."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable

import grpc
from muster.v1 import state_pb2 as pb
from muster.v1.state_pb2_grpc import StateServiceStub

from agent_node import Client, ConflictError, LockLost
from agent_node.state.values import Entry
from tests.support.linearizability import UNKNOWN, Operation
from tests.support.state_model import Acquire, Add, Conflict, Delete, Read, Refused, Release, Seen, Write, Written

KEYS = ("alone", "guarded", "pair/x", "pair/y")
PAIR = KEYS[2:]
GUARDED = "guarded"
STEP = 1000  # between the values that are put, so that additions never make one of them
LOCK_MS = 200  # so short that some holders lose it


class Keys:
    """The keys that are in use, and what is known of them.

    Args:
        prefix: what their names begin with.
    """

    def __init__(self, prefix: str) -> None:
        self.all = tuple(prefix + key for key in KEYS)
        self.pair = self.all[2:]
        self.guarded = prefix + GUARDED
        self.revision = dict.fromkeys(self.all, 0)  # the last one that anybody saw: conditions on it hold often, not always
        self.tokens: list[int] = []  # of the guarded key's lock, those of former holders too


class Clients:
    """Clients that do something at random until they are told to stop, and the history of it.

    Args:
        rng: decides what they do.
        namespace: where.
        pace_s: how long each rests between two operations, on average; 0: not at all.
    """

    def __init__(self, rng: random.Random, *, namespace: str = "default", pace_s: float = 0.0) -> None:
        self.history: list[Operation] = []
        self.stopping = False
        self._rng = rng
        self._metadata = (("muster-namespace", namespace),)
        self._pace_s = pace_s
        self._value = 0
        self._pages = 0
        self._keys = Keys("")

    def turn_page(self) -> None:
        """From now on other keys are used: what can be checked by itself stays small, however long they go on."""
        self._pages += 1
        self._keys = Keys(f"{self._pages}/")

    async def _rest(self) -> None:
        if self._pace_s:
            await asyncio.sleep(self._rng.uniform(0, 2 * self._pace_s))

    async def through_sdk(self, name: str, client: Client) -> None:
        """One client of the SDK's: it waits outages out, repeats what was not answered, and counts once."""
        state = client.state
        while not self.stopping:
            await self._rest()
            keys = self._keys
            key = self._rng.choice(keys.all)
            match self._rng.randrange(8):
                case 0:
                    await self._record(name, Read((key,)), lambda key=key: self._read(client, (key,)))
                case 1:
                    pair = keys.pair
                    await self._record(name, Read(pair), lambda pair=pair: self._read(client, pair))
                case 2:
                    await self._put(name, client, key, if_revision=None)
                case 3:
                    await self._put(name, client, key, if_revision=keys.revision[key])
                case 4:
                    await self._record(name, Delete(key), lambda key=key: state.delete(key))
                case 5:
                    await self._record(name, Add(key, 1), lambda key=key: self._add(client, key))
                case 6:
                    await self._txn(name, client, self._rng.choice([keys.pair, keys.pair[::-1], (key,)]), keys)
                case _:
                    await self._put_under_lock(name, client, keys)

    async def by_hand(self, name: str, address: str, client: Client) -> None:
        """One client that repeats nothing, and that goes on writing under locks that it may long have lost."""
        async with grpc.aio.insecure_channel(address, options=[("grpc.max_reconnect_backoff_ms", 500)]) as channel:
            stub = StateServiceStub(channel)
            while not self.stopping:
                await self._rest()
                keys = self._keys
                key, value = self._rng.choice(keys.all), self._next_value()
                token = self._rng.choice(keys.tokens[-3:]) if keys.tokens else 0
                match self._rng.randrange(8 if token else 6):
                    case 0 | 1 | 2 | 3:
                        put = pb.PutRequest(key=key, value=b"%d" % value)
                        answer = await self._record(
                            name, Write(((key, value),)), lambda put=put: written(stub.Put(put, metadata=self._metadata))
                        )
                    case 4 | 5:
                        add = pb.UpdateRequest(key=key, add="1")
                        answer = await self._record(name, Add(key, 1), lambda add=add: added(stub.Update(add, metadata=self._metadata)))
                    case 6:
                        answer = await self._put_and_release(name, stub, token, keys, may_release=False)
                    case _:
                        ask = pb.LockRequest(name=keys.guarded, waiter_id=f"{name}/{value}")
                        ask.ttl.FromMilliseconds(LOCK_MS)
                        ask.wait.FromSeconds(10)
                        answer = await self._record(
                            name, Acquire(keys.guarded), lambda ask=ask: acquired(stub.Lock(ask, metadata=self._metadata))
                        )
                        if isinstance(answer, int) and answer:
                            keys.tokens.append(answer)
                            answer = await self._put_and_release(name, stub, answer, keys, may_release=self._rng.random() < 0.9)
                if answer is UNKNOWN:
                    # Only so many calls are left open: the next one when the coordinator is there again for this channel, and the store
                    # for writes, which are refused at once while it is out.
                    await channel.channel_ready()
                    await client.state.put("probe", 0)

    async def _put_and_release(self, name: str, stub: StateServiceStub, token: int, keys: Keys, *, may_release: bool) -> object:
        """Writes under a lock, and lets it go, or leaves that to its lease."""
        value, guarded = self._next_value(), keys.guarded
        held = pb.WriteOptions(required_locks=[pb.RequiredLock(name=guarded, token=token)])
        put = pb.PutRequest(key=guarded, value=b"%d" % value, options=held)
        answer = await self._record(name, Write(((guarded, value),), token=token), lambda: written(stub.Put(put, metadata=self._metadata)))
        if answer is UNKNOWN or not may_release:
            return answer
        unlock = pb.UnlockRequest(name=guarded, token=token)
        return await self._record(name, Release(guarded, token), lambda: released(stub.Unlock(unlock, metadata=self._metadata)))

    async def _record(self, name: str, call: object, ask: Callable[[], Awaitable[object]]) -> object:
        """Calls, and notes when, and what came of it."""
        loop = asyncio.get_running_loop()
        called_s = loop.time()
        answer: object = UNKNOWN
        try:
            answer = await ask()
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                raise
        finally:  # a block that lost its lock is cancelled: what it asked for may come all the same
            self.history.append(Operation(name, call, answer, called_s, loop.time()))
        return answer

    def _next_value(self) -> int:
        self._value += STEP
        return self._value

    def _saw(self, entry: Entry | None) -> Seen | None:
        if entry is None:
            return None
        if entry.key in self._keys.revision:
            self._keys.revision[entry.key] = entry.revision
        return Seen(entry.json(int), entry.revision, entry.version)

    async def _read(self, client: Client, keys: tuple[str, ...]) -> object:
        found = await client.state.get_many(keys)
        return tuple(self._saw(found.get(key)) for key in keys)

    async def _put(self, name: str, client: Client, key: str, *, if_revision: int | None, token: int = 0) -> None:
        value = self._next_value()

        async def ask() -> object:
            try:
                return Written(await client.state.put(key, value, if_revision=if_revision))
            except ConflictError as error:
                return Conflict(self._saw(error.entry))
            except LockLost:
                return Refused()

        await self._record(name, Write(((key, value),), if_revision, token), ask)

    async def _put_under_lock(self, name: str, client: Client, keys: Keys) -> None:
        loop = asyncio.get_running_loop()
        called_s = loop.time()
        with contextlib.suppress(LockLost, TimeoutError):
            async with client.state.lock(keys.guarded, ttl_s=2, wait_s=20) as lock:
                self.history.append(Operation(name, Acquire(keys.guarded), lock.token, called_s, loop.time()))
                keys.tokens.append(lock.token)
                await self._put(name, client, keys.guarded, if_revision=None, token=lock.token)

    async def _add(self, client: Client, key: str) -> object:
        return self._saw(await client.state.add(key, 1))

    async def _txn(self, name: str, client: Client, touched: tuple[str, ...], keys: Keys) -> None:
        puts = tuple((key, self._next_value()) for key in touched)
        if_revision = keys.revision[touched[0]]

        async def ask() -> object:
            txn = client.state.txn()
            txn = txn.if_revision(touched[0], if_revision) if if_revision else txn.if_missing(touched[0])
            for key, value in puts:
                txn.put(key, value)
            result = await txn.otherwise_get(touched[0]).commit()
            return Written(result.revision) if result.succeeded else Conflict(self._saw(result.entries.get(touched[0])))

        await self._record(name, Write(puts, if_revision), ask)


async def written(call: Awaitable[pb.PutResponse]) -> object:
    try:
        return Written((await call).revision)
    except grpc.aio.AioRpcError as error:
        return refused(error)


async def added(call: Awaitable[pb.UpdateResponse]) -> object:
    entry = (await call).entry
    return Seen(int(entry.value), entry.mod_revision, entry.version)


async def acquired(call: Awaitable[pb.LockResponse]) -> object:
    return (await call).token


async def released(call: Awaitable[pb.UnlockResponse]) -> object:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return refused(error)
    return True


def refused(error: grpc.aio.AioRpcError) -> Refused:
    if error.code() != grpc.StatusCode.ABORTED:
        raise error
    return Refused()
