"""Shared state: keys with revisions, watches, leases, locks, and what agents tell of themselves; all through the coordinator."""

from agent_node.state.agent_state import AgentPresence, AgentState, AgentStatus, TaskProgress
from agent_node.state.blocking import BlockingLock, BlockingState
from agent_node.state.locks import Lease, Lock
from agent_node.state.state import State
from agent_node.state.txn import Txn, TxnResult
from agent_node.state.values import Author, Entry, EventKind, LockHolder, LockInfo, LockWaiter, StateEvent, StateStats
from agent_node.state.watches import StateWatch

__all__ = [
    "AgentPresence",
    "AgentState",
    "AgentStatus",
    "Author",
    "BlockingLock",
    "BlockingState",
    "Entry",
    "EventKind",
    "Lease",
    "Lock",
    "LockHolder",
    "LockInfo",
    "LockWaiter",
    "State",
    "StateEvent",
    "StateStats",
    "StateWatch",
    "TaskProgress",
    "Txn",
    "TxnResult",
]
