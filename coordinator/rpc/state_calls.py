"""What is asked of shared state, whether by a call of its own or in a session: messages to commands, verdicts to messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from muster.v1 import state_pb2 as pb

from coordinator import convert_state as convert
from coordinator.convert_state_out import conflict_out, event_out, fill_entry, lock_out
from coordinator.core.model import TaskState
from coordinator.errors import CursorInvalid, InvalidRequest, MusterError
from coordinator.rpc.pages import PageToken, page_size, position
from coordinator.rpc.state_refusals import refusal_of_verdict, stale_attempt
from coordinator.state.model import Command, Compact, Entry, KeepLease, Outcome, Transaction, Verdict
from coordinator.state.updates import Update

if TYPE_CHECKING:
    from coordinator.engine.namespace import Namespace
    from coordinator.engine.shard import Shard
    from coordinator.state.engine import Header, LockWait, StateEngine
    from coordinator.state.model import Limits

MAX_PAGE_BYTES = 2 * 1024 * 1024
MAX_SHOWN_WAITERS = 100
COMPACTED_AT_ONCE = 1000  # events that a call of Compact removes itself; the engine removes the rest

WITH_OPTIONS = frozenset(("put", "delete", "txn", "update", "grant_lease", "revoke_lease"))
"""Operations that may be tied to an attempt."""

Response = Any  # the response message of an RPC
Answered = Callable[["Response | MusterError"], None]


class StateCalls:
    """What one session, or one call, asks of a namespace's state.

    Args:
        shard: where the namespace is.
        namespace: whose state.
        engine: the shard's.
        limits: says what holds for it now.
        tied: by namespace, the last write that was tied to an attempt, whoever made it: all reads come behind it.
    """

    def __init__(
        self, *, shard: Shard, namespace: Namespace, engine: StateEngine, limits: Callable[[str], Limits], tied: dict[str, int]
    ) -> None:
        self._shard = shard
        self._namespace = namespace
        self._name = namespace.name
        self._engine = engine
        self._limits = limits
        self._tied = tied
        self._last_write = 0  # reads come behind it
        self._waits: set[LockWait] = set()
        self._reads: set[asyncio.Task[None]] = set()

    def leave(self) -> None:
        """Whoever asked is gone: nothing is answered any more."""
        for wait in self._waits:
            wait.forget()
        for read in self._reads:
            read.cancel()

    def begin(self, name: str, request: Any, client_id: str, answered: Answered) -> None:
        """Does what an operation asks for, in the order of the calls.

        Args:
            name: the operation's, as StateOp has it.
            request: its request.
            client_id: the session's client, if it told.
            answered: gets the response, or the error. It may be called before this returns.

        Raises:
            MusterError: it is refused at once.
        """
        self._shard.require_current(self._namespace)
        ask = _ASK.get(name)
        if ask is None:
            raise InvalidRequest("the operation says nothing to do, or something that this coordinator doesn't know", field="op")
        ask(self, request, client_id, answered)
        if name in WITH_OPTIONS and request.HasField("options") and request.options.fence:
            self._tied[self._name] = self._last_write

    def _behind(self) -> int:
        return max(self._last_write, self._tied.get(self._name, 0))

    async def require_attempt(self, options: pb.WriteOptions) -> None:
        """For a write that is tied to an attempt, before it: waits until the decisions that make the attempt current are durable.

        Whoever reads or writes after a later attempt has begun comes behind this write, in the engine's one line.

        Raises:
            Conflict: the attempt isn't current.
            InvalidRequest: half of what names it is missing.
            Unavailable: the store can't be reached.
        """
        attempt = convert.attempt_in(options)
        while attempt is not None:
            is_current = self._is_current(attempt)
            await self._shard.durable()
            if not is_current:
                raise stale_attempt(attempt.task_id)
            if self._is_current(attempt):
                return

    def _is_current(self, attempt: convert.Attempt) -> bool:
        self._shard.require_current(self._namespace)
        task = self._namespace.scheduler.state.tasks.get(attempt.task_id)
        return task is not None and task.state is TaskState.RUNNING and task.fence == attempt.fence

    # --- writes ---------------------------------------------------------------------------------------------------------------

    def _write(self, command: Command, answered: Answered, respond: Callable[[Verdict, pb.StateHeader], Response]) -> None:
        self._last_write = self._engine.write(self._name, command, partial(self._written, command, answered, respond))

    def _written(
        self,
        command: Command | Update,
        answered: Answered,
        respond: Callable[[Verdict, pb.StateHeader], Response],
        verdict: Verdict | MusterError,
        header: Header,
    ) -> None:
        if isinstance(verdict, MusterError):
            answered(verdict)
            return
        if verdict.outcome is not Outcome.DONE:
            error = refusal_of_verdict(verdict, header, self._limits(self._name), _names(command))
            if error is not None:
                answered(error)
                return
        answered(respond(verdict, header_out(header)))

    def _put(self, request: pb.PutRequest, client_id: str, answered: Answered) -> None:
        self._write(convert.put_in(request, client_id), answered, _put_out)

    def _delete(self, request: pb.DeleteRequest, client_id: str, answered: Answered) -> None:
        self._write(convert.delete_in(request, client_id), answered, _delete_out)

    def _txn(self, request: pb.TxnRequest, client_id: str, answered: Answered) -> None:
        self._write(convert.txn_in(request, client_id), answered, _txn_out)

    def _update(self, request: pb.UpdateRequest, client_id: str, answered: Answered) -> None:
        update = convert.update_in(request, client_id)
        self._last_write = self._engine.update(self._name, update, partial(self._written, update, answered, _update_out))

    def _compact(self, request: pb.CompactRequest, client_id: str, answered: Answered) -> None:
        revision = convert.check_number(request.revision, "revision", at_least=1)
        self._write(Compact(revision, COMPACTED_AT_ONCE), answered, lambda _, header: pb.CompactResponse(header=header))

    # --- leases and locks -----------------------------------------------------------------------------------------------------

    def _grant_lease(self, request: pb.GrantLeaseRequest, client_id: str, answered: Answered) -> None:
        self._write(
            convert.grant_lease_in(request, client_id),
            answered,
            lambda verdict, header: pb.GrantLeaseResponse(header=header, lease_id=verdict.revision),
        )

    def _keep_lease(self, request: pb.KeepLeaseRequest, client_id: str, answered: Answered) -> None:
        command = KeepLease(convert.lease_id_in(request.lease_id))
        self._write(command, answered, lambda _, header: pb.KeepLeaseResponse(header=header))

    def _revoke_lease(self, request: pb.RevokeLeaseRequest, client_id: str, answered: Answered) -> None:
        command = convert.revoke_lease_in(request, client_id)
        self._write(command, answered, lambda _, header: pb.RevokeLeaseResponse(header=header))

    def _lock(self, request: pb.LockRequest, client_id: str, answered: Answered) -> None:
        acquire = convert.acquire_lock_in(request, client_id)
        asked = _Asked()

        def granted(verdict: Verdict | MusterError, header: Header) -> None:
            asked.is_answered = True
            if asked.wait is not None:
                self._waits.discard(asked.wait)
            self._written(acquire, answered, _lock_out, verdict, header)

        wait = self._engine.lock(self._name, acquire, convert.wait_s_in(request), granted)
        if not asked.is_answered:
            asked.wait = wait
            self._waits.add(wait)

    def _keep_lock(self, request: pb.KeepLockRequest, client_id: str, answered: Answered) -> None:
        self._write(convert.keep_lock_in(request), answered, lambda _, header: pb.KeepLockResponse(header=header))

    def _unlock(self, request: pb.UnlockRequest, client_id: str, answered: Answered) -> None:
        self._write(convert.release_lock_in(request), answered, lambda _, header: pb.UnlockResponse(header=header))

    # --- reads ----------------------------------------------------------------------------------------------------------------

    def _get(self, request: pb.GetRequest, client_id: str, answered: Answered) -> None:
        self._engine.get(self._name, convert.get_in(request), partial(_got, answered), behind=self._behind())

    def _later(self, read: Coroutine[Any, Any, Response], answered: Answered) -> None:
        task = asyncio.create_task(self._answer(read, answered), name="state.read")
        self._reads.add(task)
        task.add_done_callback(self._reads.discard)

    @staticmethod
    async def _answer(read: Coroutine[Any, Any, Response], answered: Answered) -> None:
        try:
            response = await read
        except MusterError as error:
            answered(error)
        else:
            answered(response)

    def _list(self, request: pb.ListRequest, client_id: str, answered: Answered) -> None:
        self._later(self._list_page(request, self._behind()), answered)

    async def _list_page(self, request: pb.ListRequest, behind: int) -> pb.ListResponse:
        prefix = convert.check_prefix(request.prefix, "prefix")
        token = _name_token(request.page_token, f"state {prefix}", prefix)
        page = await self._engine.list(
            self._name,
            prefix=prefix,
            after=token.after,
            limit=page_size(request.page_size),
            max_bytes=MAX_PAGE_BYTES,
            keys_only=request.keys_only,
            behind=behind,
        )
        response = pb.ListResponse(header=self._header(page.revision))
        for entry in page.entries:
            fill_entry(response.entries.add(), entry, keys_only=request.keys_only)
        if page.after is not None:
            response.next_page_token = PageToken(token.query, page.after).text()
        return response

    def _history(self, request: pb.HistoryRequest, client_id: str, answered: Answered) -> None:
        self._later(self._history_page(request, self._behind()), answered)

    async def _history_page(self, request: pb.HistoryRequest, behind: int) -> pb.HistoryResponse:
        key = convert.check_key(request.key, "key")
        token = PageToken.parse(request.page_token, query=f"history {key}")
        after = position(token.after, field="page_token") if token.after else 0
        size = page_size(request.page_size)
        page = await self._engine.history(self._name, key, after=after, limit=size, max_bytes=MAX_PAGE_BYTES, behind=behind)
        response = pb.HistoryResponse(header=self._header(page.revision), events=map(event_out, page.events))
        if page.through < page.revision:
            response.next_page_token = PageToken(token.query, str(page.through)).text()
        return response

    def _list_locks(self, request: pb.ListLocksRequest, client_id: str, answered: Answered) -> None:
        self._later(self._locks_page(request, self._behind()), answered)

    async def _locks_page(self, request: pb.ListLocksRequest, behind: int) -> pb.ListLocksResponse:
        prefix = convert.check_prefix(request.prefix, "prefix")
        token = _name_token(request.page_token, f"locks {prefix}", prefix)
        size = page_size(request.page_size)
        locks = await self._engine.locks(self._name, prefix=prefix, after=token.after, limit=size, behind=behind)
        response = pb.ListLocksResponse(header=header_out(self._engine.header(self._name)))
        room = MAX_PAGE_BYTES
        for lock in locks:
            message = lock_out(lock, shown=MAX_SHOWN_WAITERS)
            room -= message.ByteSize()
            if room < 0 and response.locks:
                break
            response.locks.append(message)
        if len(response.locks) < len(locks) or len(locks) == size:
            response.next_page_token = PageToken(token.query, response.locks[-1].name).text()
        return response

    def _stats(self, request: pb.GetStateStatsRequest, client_id: str, answered: Answered) -> None:
        self._later(self._facts(self._behind()), answered)

    async def _facts(self, behind: int) -> pb.GetStateStatsResponse:
        facts = await self._engine.facts(self._name, behind=behind)
        return pb.GetStateStatsResponse(
            header=pb.StateHeader(revision=facts.revision, incarnation=facts.incarnation),
            compact_revision=facts.compact_revision,
            keys=facts.keys,
            bytes=facts.bytes,
        )

    def _header(self, revision: int) -> pb.StateHeader:
        return pb.StateHeader(revision=revision, incarnation=self._engine.header(self._name).incarnation)


class _Asked:
    """A lock that was asked for."""

    def __init__(self) -> None:
        self.wait: LockWait | None = None
        self.is_answered = False


_ASK: dict[str, Callable[[StateCalls, Any, str, Answered], None]] = {
    name: getattr(StateCalls, f"_{name}") for name in (field.name for field in pb.StateOp.DESCRIPTOR.oneofs_by_name["op"].fields)
}


def header_out(header: Header) -> pb.StateHeader:
    """Where the state is."""
    return pb.StateHeader(revision=header.revision, incarnation=header.incarnation)


def _names(command: Command | Update) -> Sequence[str]:
    if isinstance(command, Transaction | Update):
        return [name for name, _ in command.locks]
    return [getattr(command, "name", "")]


def _name_token(text: str, query: str, prefix: str) -> PageToken:
    token = PageToken.parse(text, query=query)
    if token.after and not token.after.startswith(prefix):
        raise CursorInvalid("page_token comes from another request: begin again without it", field="page_token")
    return token


def _got(answered: Answered, entries: Sequence[Entry | None] | MusterError, header: Header) -> None:
    if isinstance(entries, MusterError):
        answered(entries)
        return
    response = pb.GetResponse(header=header_out(header))
    for entry in entries:
        if entry is not None:
            fill_entry(response.entries.add(), entry)
    answered(response)


def _put_out(verdict: Verdict, header: pb.StateHeader) -> pb.PutResponse:
    if verdict.outcome is Outcome.COMPARE_FAILED:
        return pb.PutResponse(header=header, conflict=conflict_out(verdict.entries))
    put = verdict.puts[0]
    return pb.PutResponse(header=header, revision=put.mod_revision, version=put.version, create_revision=put.create_revision)


def _delete_out(verdict: Verdict, header: pb.StateHeader) -> pb.DeleteResponse:
    if verdict.outcome is Outcome.COMPARE_FAILED:
        return pb.DeleteResponse(header=header, conflict=conflict_out(verdict.entries))
    return pb.DeleteResponse(header=header, deleted=verdict.number)


def _txn_out(verdict: Verdict, header: pb.StateHeader) -> pb.TxnResponse:
    response = pb.TxnResponse(header=header, succeeded=verdict.outcome is Outcome.DONE, revision=verdict.revision)
    for entry in verdict.entries:
        fill_entry(response.entries.add(), entry)
    return response


def _update_out(verdict: Verdict, header: pb.StateHeader) -> pb.UpdateResponse:
    if verdict.outcome is Outcome.COMPARE_FAILED:
        return pb.UpdateResponse(header=header, conflict=conflict_out(verdict.entries))
    response = pb.UpdateResponse(header=header)
    fill_entry(response.entry, verdict.entries[0])
    return response


def _lock_out(verdict: Verdict, header: pb.StateHeader) -> pb.LockResponse:
    return pb.LockResponse(header=header, token=0 if verdict.outcome is Outcome.WAITING else verdict.revision)
