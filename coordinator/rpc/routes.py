"""Which coordinator answers a call: one decision for every method of ours. A method without one isn't served."""

from __future__ import annotations

from enum import Enum, auto


class Route(Enum):
    """What says whose a call is."""

    NAMESPACE = auto()
    """The metadata: it goes to the owner of the shard that the namespace lives in."""
    NAMED = auto()
    """The request's field `name`: a namespace, which may not exist yet."""
    NUMBERED = auto()
    """The request's field `shard`."""
    EVERYWHERE = auto()
    """Nothing: whoever is asked asks the owners of all shards, and puts their answers together."""
    HERE = auto()
    """Nothing: it is about the coordinator that was asked."""


_METHODS: dict[str, dict[Route, str]] = {
    "TaskService": {Route.NAMESPACE: "Session SubmitTasks GetTask ListTasks WatchTasks CancelTasks ExplainTask"},
    "AgentService": {Route.NAMESPACE: "Connect ListAgents DrainAgent"},
    "StateService": {
        Route.NAMESPACE: "Get Put Delete List Txn Update History Compact GrantLease KeepLease RevokeLease Lock KeepLock Unlock ListLocks"
        " GetStateStats Watch StateSession"
    },
    "AdminService": {
        Route.NAMESPACE: "GetQueueStats GetQueueHistory GetLoadMap SetPolicies DeletePolicies ListPolicies CancelMatchingTasks"
        " ReprioritiseTasks RedriveTasks PurgeTasks ListWebhookDeliveries RetryWebhookDeliveries ListLimits ResetBreakers",
        Route.NAMED: "CreateNamespace DeleteNamespace",
        Route.NUMBERED: "GetShardDigest",
        Route.EVERYWHERE: "ListNamespaces",
        Route.HERE: "GetCoordinator GetCluster",
    },
}

ROUTES: dict[str, Route] = {
    f"/muster.v1.{service}/{method}": route
    for service, routes in _METHODS.items()
    for route, methods in routes.items()
    for method in methods.split()
}
"""By a method's full name, as gRPC has it."""
