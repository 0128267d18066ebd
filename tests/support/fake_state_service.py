"""A coordinator's side of shared state, in memory: real gRPC on a free port, no store, no clock.

It keeps what it was sent, counts a write once by (client, sequence), and breaks when a test says so. Leases end, and locks are taken away,
only by a test's word.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
from muster.v1 import state_pb2 as pb
from muster.v1.common_pb2 import Refusal
from muster.v1.state_pb2_grpc import StateServiceServicer, add_StateServiceServicer_to_server

SessionContext = grpc.aio.ServicerContext[pb.StateSessionRequest, pb.StateSessionResponse]
WatchContext = grpc.aio.ServicerContext[pb.WatchRequest, pb.WatchResponse]


def _refusal(code: grpc.StatusCode, reason: str, message: str, **metadata: str) -> Refusal:
    return Refusal(code=code.value[0], reason=reason, message=message, metadata=metadata)


class _Refused(Exception):
    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class _Watcher:
    def __init__(self, create: pb.CreateWatch, outgoing: "asyncio.Queue[Any]") -> None:
        self.create = create
        self.outgoing = outgoing

    def wants(self, event: pb.StateEvent) -> bool:
        if self.create.kinds and event.kind not in self.create.kinds:
            return False
        return event.key.startswith(self.create.key) if self.create.prefix else event.key == self.create.key


class FakeLock:
    """Who holds a lock, and who waits for it."""

    def __init__(self) -> None:
        self.token = 0
        self.holder = ""
        self.author = pb.StateAuthor()
        self.waiters: list[tuple[str, pb.StateAuthor, asyncio.Event]] = []


class FakeStateService(StateServiceServicer):
    """The script and the record. Change the public attributes at any time.

    Attributes:
        answering: False keeps answers back; what was asked happens all the same.
        deaf: True: what is asked is lost on its way.
        refuse_next: the next operations are refused so, one after the other.
        current_fences: by task, the fence of the attempt that is current.
        compact_revision: the first revision that is kept.
    """

    def __init__(self) -> None:
        self.answering = True
        self.deaf = False
        self.lost = 0
        self.refuse_next: list[Refusal] = []
        self.current_fences: dict[str, int] = {}
        self.compact_revision = 1
        self.revision = 0
        self.ops: list[pb.StateOp] = []
        self.batches: list[int] = []
        self.opened = 0
        self.watch_streams = 0
        self.entries: dict[str, pb.StateEntry] = {}
        self.events: list[pb.StateEvent] = []
        self.leases: set[int] = set()
        self.locks: dict[str, FakeLock] = {}
        self._kept: dict[tuple[str, int], pb.StateAnswer] = {}
        self._streams: list[asyncio.Queue[Any]] = []
        self._watchers: list[_Watcher] = []

    async def break_streams(self, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        """Ends every open stream."""
        for stream in list(self._streams):
            await stream.put(code)

    def write(self, key: str, value: bytes = b"x", kind: "pb.StateEventKind.ValueType" = pb.STATE_EVENT_KIND_PUT) -> int:
        """Somebody else's write."""
        self.revision += 1
        self._change(key, self.revision, pb.PutRequest(key=key, value=value) if kind == pb.STATE_EVENT_KIND_PUT else None, kind=kind)
        return self.revision

    def end_lease(self, lease_id: int, kind: "pb.StateEventKind.ValueType" = pb.STATE_EVENT_KIND_EXPIRED) -> None:
        """A lease ends, and its keys with it."""
        self.leases.discard(lease_id)
        self.revision += 1
        for key in [entry.key for entry in self.entries.values() if entry.lease_id == lease_id]:
            self._change(key, self.revision, None, kind=kind)

    def compact(self, revision: int) -> None:
        """Forgets what was before."""
        self.compact_revision = revision

    def begin_attempt(self, task_id: str) -> int:
        """An agent runs a task; answers the fence of its attempt."""
        self.current_fences[task_id] = 17
        return 17

    def end_attempt(self, task_id: str) -> None:
        """It is over."""
        del self.current_fences[task_id]

    def take_lock_away(self, name: str) -> None:
        """A lock's lease ends: the next waiter has it."""
        self._pass_on(self.locks[name])

    async def StateSession(  # the name in the proto
        self, request_iterator: AsyncIterator[pb.StateSessionRequest], context: SessionContext
    ) -> AsyncIterator[pb.StateSessionResponse]:
        """Answers operations until told to end."""
        self.opened += 1
        outgoing: asyncio.Queue[Any] = asyncio.Queue()
        self._streams.append(outgoing)
        tasks: set[asyncio.Task[None]] = set()
        reading = asyncio.ensure_future(self._read(request_iterator, outgoing, tasks))
        try:
            while True:
                item = await outgoing.get()
                if item is grpc.StatusCode.OK:
                    return
                if isinstance(item, grpc.StatusCode):
                    await context.abort(item, "ended by the script")
                answers = [item]
                while not outgoing.empty() and not isinstance(outgoing._queue[0], grpc.StatusCode):  # type: ignore[attr-defined]  # a peek
                    answers.append(outgoing.get_nowait())
                if self.answering:
                    yield pb.StateSessionResponse(answers=answers)
        finally:
            reading.cancel()
            for task in tasks:
                task.cancel()
            self._streams.remove(outgoing)

    async def _read(
        self, requests: AsyncIterator[pb.StateSessionRequest], outgoing: "asyncio.Queue[Any]", tasks: "set[asyncio.Task[None]]"
    ) -> None:
        client_id = ""
        async for request in requests:
            client_id = request.client_id or client_id
            if self.deaf:
                self.lost += len(request.ops)
                continue
            self.batches.append(len(request.ops))
            for op in request.ops:
                self.ops.append(op)
                if op.HasField("lock") and not self.refuse_next:
                    task = asyncio.ensure_future(self._lock(op, outgoing))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                else:
                    outgoing.put_nowait(self._answer(op, client_id))

    def _answer(self, op: pb.StateOp, client_id: str) -> pb.StateAnswer:
        name = op.WhichOneof("op")
        assert name is not None
        request = getattr(op, name)
        options = request.options if "options" in request.DESCRIPTOR.fields_by_name else pb.WriteOptions()
        if options.sequence and (client_id, options.sequence) in self._kept:
            answer = pb.StateAnswer()
            answer.CopyFrom(self._kept[client_id, options.sequence])
            answer.op_id = op.op_id
            return answer
        answer = pb.StateAnswer(op_id=op.op_id)
        try:
            if self.refuse_next:
                raise _Refused(self.refuse_next.pop(0))
            for required in options.required_locks:
                lock = self.locks.get(required.name)
                if lock is None or lock.token != required.token:
                    raise _Refused(_refusal(grpc.StatusCode.ABORTED, "LOCK_LOST", f"the lock {required.name} is somebody else's"))
            if options.fence and self.current_fences.get(options.task_id) != options.fence:
                raise _Refused(_refusal(grpc.StatusCode.ABORTED, "STALE_ATTEMPT", "the attempt is not current"))
            getattr(self, f"_do_{name}")(request, getattr(answer, name))
        except _Refused as refused:
            return pb.StateAnswer(op_id=op.op_id, refusal=refused.refusal)
        getattr(answer, name).header.revision = self.revision
        if options.sequence:
            self._kept[client_id, options.sequence] = answer
        return answer

    def _do_get(self, request: pb.GetRequest, answer: pb.GetResponse) -> None:
        answer.entries.extend(self.entries[key] for key in request.keys if key in self.entries)

    def _do_put(self, request: pb.PutRequest, answer: pb.PutResponse) -> None:
        if self._conflicts(request, answer):
            return
        if request.lease_id and request.lease_id not in self.leases:
            raise _Refused(_refusal(grpc.StatusCode.NOT_FOUND, "LEASE_NOT_FOUND", "there is no such lease"))
        self.revision += 1
        entry = self._change(request.key, self.revision, request)
        answer.revision, answer.version, answer.create_revision = entry.mod_revision, entry.version, entry.create_revision

    def _do_delete(self, request: pb.DeleteRequest, answer: pb.DeleteResponse) -> None:
        if self._conflicts(request, answer):
            return
        keys = [key for key in self.entries if (key.startswith(request.key) if request.prefix else key == request.key)]
        self.revision += bool(keys)
        for key in keys:
            self._change(key, self.revision, None, kind=pb.STATE_EVENT_KIND_DELETED)
        answer.deleted = len(keys)

    def _do_list(self, request: pb.ListRequest, answer: pb.ListResponse) -> None:
        size = request.page_size or 2
        keys = [key for key in sorted(self.entries) if key.startswith(request.prefix) and key > request.page_token]
        answer.entries.extend(self.entries[key] for key in keys[:size])
        if request.keys_only:
            for entry in answer.entries:
                entry.value = b""
        answer.next_page_token = keys[size - 1] if len(keys) > size else ""

    def _do_txn(self, request: pb.TxnRequest, answer: pb.TxnResponse) -> None:
        answer.succeeded = all(self._holds(each) for each in request.compares)
        ops = request.then_ops if answer.succeeded else request.else_ops
        for op in ops:
            answer.entries.extend(self.entries[key] for key in op.get.keys if key in self.entries)
        if any(not op.HasField("get") for op in ops):
            self.revision += 1
            answer.revision = self.revision
        for op in ops:
            if op.HasField("put"):
                op.put.options.CopyFrom(request.options)
                self._change(op.put.key, self.revision, op.put)
            elif op.HasField("delete") and op.delete.key in self.entries:
                self._change(op.delete.key, self.revision, None, kind=pb.STATE_EVENT_KIND_DELETED)

    def _do_update(self, request: pb.UpdateRequest, answer: pb.UpdateResponse) -> None:
        if self._conflicts(request, answer):
            return
        there = self.entries.get(request.key)
        value: Any = json.loads(there.value) if there else None
        match request.WhichOneof("change"):
            case "add":
                value = (value or 0) + json.loads(request.add)
            case "append":
                value = (value or []) + [json.loads(item) for item in request.append.items]
            case "set_add":
                value = value or []
                for item in map(json.loads, request.set_add.items):
                    value += [item] if item not in value else []
            case "set_remove":
                value = [item for item in value or [] if item not in map(json.loads, request.set_remove.items)]
            case "merge_patch":
                value = {name: item for name, item in {**(value or {}), **json.loads(request.merge_patch)}.items() if item is not None}
            case _:
                for each in json.loads(request.json_patch):
                    value[each["path"].removeprefix("/")] = each["value"]
        self.revision += 1
        put = pb.PutRequest(key=request.key, value=json.dumps(value).encode(), content_type="application/json", options=request.options)
        answer.entry.CopyFrom(self._change(request.key, self.revision, put))

    def _do_history(self, request: pb.HistoryRequest, answer: pb.HistoryResponse) -> None:
        answer.events.extend(event for event in self.events if event.key == request.key and event.revision >= self.compact_revision)

    def _do_compact(self, request: pb.CompactRequest, answer: pb.CompactResponse) -> None:
        self.compact_revision = request.revision

    def _do_grant_lease(self, request: pb.GrantLeaseRequest, answer: pb.GrantLeaseResponse) -> None:
        self.revision += 1
        answer.lease_id = self.revision
        self.leases.add(self.revision)

    def _do_keep_lease(self, request: pb.KeepLeaseRequest, answer: pb.KeepLeaseResponse) -> None:
        if request.lease_id not in self.leases:
            raise _Refused(_refusal(grpc.StatusCode.NOT_FOUND, "LEASE_NOT_FOUND", "there is no such lease"))

    def _do_revoke_lease(self, request: pb.RevokeLeaseRequest, answer: pb.RevokeLeaseResponse) -> None:
        self._do_keep_lease(pb.KeepLeaseRequest(lease_id=request.lease_id), pb.KeepLeaseResponse())
        self.end_lease(request.lease_id, kind=pb.STATE_EVENT_KIND_DELETED)

    def _do_keep_lock(self, request: pb.KeepLockRequest, answer: pb.KeepLockResponse) -> None:
        if self.locks[request.name].token != request.token:
            raise _Refused(_refusal(grpc.StatusCode.ABORTED, "LOCK_LOST", f"the lock {request.name} is somebody else's"))

    def _do_unlock(self, request: pb.UnlockRequest, answer: pb.UnlockResponse) -> None:
        lock = self.locks[request.name]
        lock.waiters = [each for each in lock.waiters if each[0] != request.waiter_id]
        if request.token == lock.token if request.token else request.waiter_id == lock.holder:
            self._pass_on(lock)
        elif request.token:
            raise _Refused(_refusal(grpc.StatusCode.ABORTED, "LOCK_LOST", f"the lock {request.name} is somebody else's"))

    def _do_list_locks(self, request: pb.ListLocksRequest, answer: pb.ListLocksResponse) -> None:
        for name, lock in sorted(self.locks.items()):
            state = answer.locks.add(name=name)
            if lock.token:
                state.holder.token, state.holder.waiter_id = lock.token, lock.holder
                state.holder.author.CopyFrom(lock.author)
            for waiter_id, author, _ in lock.waiters:
                state.waiters.add(waiter_id=waiter_id, author=author)
            state.waiter_count = len(lock.waiters)

    def _do_stats(self, request: pb.GetStateStatsRequest, answer: pb.GetStateStatsResponse) -> None:
        answer.keys, answer.compact_revision = len(self.entries), self.compact_revision
        answer.bytes = sum(len(each.key) + len(each.value) for each in self.entries.values())

    async def _lock(self, op: pb.StateOp, outgoing: "asyncio.Queue[Any]") -> None:
        request = op.lock
        lock = self.locks.setdefault(request.name, FakeLock())
        if not lock.token and not lock.waiters:
            lock.holder, lock.author = request.waiter_id, request.author
            self.revision += 1
            lock.token = self.revision
        if lock.holder != request.waiter_id:
            granted = next((each[2] for each in lock.waiters if each[0] == request.waiter_id), None)
            if granted is None:
                granted = asyncio.Event()
                lock.waiters.append((request.waiter_id, request.author, granted))
            with suppress(TimeoutError):
                await asyncio.wait_for(granted.wait(), request.wait.ToTimedelta().total_seconds())
        token = lock.token if lock.holder == request.waiter_id else 0
        outgoing.put_nowait(pb.StateAnswer(op_id=op.op_id, lock=pb.LockResponse(token=token)))

    def _pass_on(self, lock: FakeLock) -> None:
        lock.token, lock.holder = 0, ""
        if lock.waiters:
            lock.holder, lock.author, granted = lock.waiters.pop(0)
            self.revision += 1
            lock.token = self.revision
            granted.set()

    def _conflicts(self, request: Any, answer: Any) -> bool:
        there = self.entries.get(request.key)
        if not request.HasField("if_revision") or request.if_revision == (there.mod_revision if there else 0):
            return False
        answer.conflict.CopyFrom(there or pb.StateEntry())
        return True

    def _holds(self, compare: pb.StateCompare) -> bool:
        there = self.entries.get(compare.key, pb.StateEntry())
        match compare.target:
            case pb.STATE_COMPARE_TARGET_MOD_REVISION:
                return there.mod_revision == compare.number
            case pb.STATE_COMPARE_TARGET_CREATE_REVISION:
                return there.create_revision == compare.number
            case pb.STATE_COMPARE_TARGET_VERSION:
                return there.version == compare.number
            case pb.STATE_COMPARE_TARGET_VALUE:
                return there.value == compare.value
            case _:
                return bool(there.mod_revision) == bool(compare.number)

    def _change(
        self, key: str, revision: int, put: pb.PutRequest | None, kind: "pb.StateEventKind.ValueType" = pb.STATE_EVENT_KIND_PUT
    ) -> pb.StateEntry:
        before = self.entries.pop(key, None)
        event = pb.StateEvent(kind=kind, key=key, revision=revision)
        entry = pb.StateEntry()
        if put is not None:
            entry = pb.StateEntry(
                key=key,
                value=put.value,
                content_type=put.content_type,
                mod_revision=revision,
                create_revision=before.create_revision if before else revision,
                version=before.version + 1 if before else 1,
                lease_id=put.lease_id,
                author=put.options.author,
            )
            self.entries[key] = entry
            event.entry.CopyFrom(entry)
            event.author.CopyFrom(put.options.author)
        if before:
            event.previous.CopyFrom(before)
        self.events.append(event)
        for watcher in self._watchers:
            if watcher.wants(event):
                watcher.outgoing.put_nowait(self._news(watcher.create, [event], revision))
        return entry

    def _news(self, create: pb.CreateWatch, events: "list[pb.StateEvent]", through_revision: int) -> pb.WatchResponse:
        news = pb.WatchNews(watch_id=create.watch_id, events=events, through_revision=through_revision)
        if not create.previous:
            for event in news.events:
                event.ClearField("previous")
        return pb.WatchResponse(header=pb.StateHeader(revision=self.revision), news=[news])

    async def Watch(  # the name in the proto
        self, request_iterator: AsyncIterator[pb.WatchRequest], context: WatchContext
    ) -> AsyncIterator[pb.WatchResponse]:
        """Serves watches until told to end."""
        self.watch_streams += 1
        outgoing: asyncio.Queue[Any] = asyncio.Queue()
        self._streams.append(outgoing)
        reading = asyncio.ensure_future(self._read_watches(request_iterator, outgoing))
        try:
            while True:
                item = await outgoing.get()
                if item is grpc.StatusCode.OK:
                    return
                if isinstance(item, grpc.StatusCode):
                    await context.abort(item, "ended by the script")
                yield item
        finally:
            reading.cancel()
            self._streams.remove(outgoing)
            self._watchers = [each for each in self._watchers if each.outgoing is not outgoing]

    async def _read_watches(self, requests: AsyncIterator[pb.WatchRequest], outgoing: "asyncio.Queue[Any]") -> None:
        async for request in requests:
            self._watchers = [
                each for each in self._watchers if each.outgoing is not outgoing or each.create.watch_id not in request.cancel
            ]
            for create in request.create:
                if create.start_revision and create.start_revision < self.compact_revision:
                    facts = {"compact_revision": str(self.compact_revision), "revision": str(self.revision)}
                    refusal = _refusal(grpc.StatusCode.OUT_OF_RANGE, "COMPACTED", "no longer kept", **facts)
                    outgoing.put_nowait(pb.WatchResponse(news=[pb.WatchNews(watch_id=create.watch_id, refusal=refusal)]))
                    continue
                watcher = _Watcher(create, outgoing)
                self._watchers.append(watcher)
                began = pb.WatchNews(watch_id=create.watch_id, created=True, through_revision=self.revision)
                outgoing.put_nowait(pb.WatchResponse(news=[began]))
                if create.start_revision:
                    missed = [each for each in self.events if each.revision >= create.start_revision and watcher.wants(each)]
                    for start in range(0, len(missed), 1_000):
                        page = missed[start : start + 1_000]
                        outgoing.put_nowait(self._news(create, page, page[-1].revision))

    @property
    def watches(self) -> int:
        """How many watches are open."""
        return len(self._watchers)


@asynccontextmanager
async def serving(service: FakeStateService, *, port: int = 0) -> AsyncIterator[str]:
    """Serves on loopback, and gives the address."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    add_StateServiceServicer_to_server(service, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield f"127.0.0.1:{bound}"
    finally:
        await server.stop(None)
