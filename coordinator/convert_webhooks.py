"""Tasks' and types' webhooks from protos to the core and back: the part of `convert` that most tasks don't need."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import cast

from muster.v1 import common_pb2, policy_pb2

from coordinator.checks import check_name
from coordinator.core.model import ALL_ENDS, ENDED, TaskState, Webhook
from coordinator.core.policies import WebhookPolicy
from coordinator.errors import InvalidRequest
from coordinator.webhook_signing import key_of
from coordinator.webhook_urls import WebhookRules, check_url

MAX_SECRETS = 4


def webhook_in(message: common_pb2.Webhook, rules: WebhookRules) -> None:
    """Checks a submitted task's own webhook.

    Raises:
        InvalidRequest: names the field at fault.
    """
    check_url(message.url, rules, "webhook.url")
    _check_states(message.states, "webhook.states")


def webhook_stored(message: common_pb2.Webhook) -> Webhook:
    """A task's own webhook that was checked before."""
    return _interned(message.url, tuple(message.states))


@lru_cache(maxsize=10_000)
def _interned(url: str, states: tuple[int, ...]) -> Webhook:
    """The same object for equal webhooks: many tasks hold few."""
    return Webhook(url, _states_stored(states))


def _states_stored(states: Sequence[int]) -> frozenset[TaskState]:
    return frozenset(end for end in ENDED if end in states) or ALL_ENDS


def _check_states(states: Iterable[int], field: str) -> None:
    for state in states:
        if state not in ENDED:
            raise InvalidRequest(f"{field} has {state}: use 4 (COMPLETED), 5 (FAILED) and 6 (CANCELLED), or none for all", field=field)


def policy_in(message: policy_pb2.WebhookPolicy, field: str, rules: WebhookRules) -> None:
    """Checks the webhook of a type that a caller wants to set.

    Raises:
        InvalidRequest: names the field at fault, and repeats no secret.
    """
    if message.task_type:
        check_name(message.task_type, f"{field}.task_type")
    if message.url:
        check_url(message.url, rules, f"{field}.url")
    elif not message.secrets:
        raise InvalidRequest(f"{field} has neither a URL nor a secret: give one, or delete the policy", field=f"{field}.url")
    _check_states(message.states, f"{field}.states")
    if len(message.secrets) > MAX_SECRETS:
        raise InvalidRequest(
            f"{field}.secrets has {len(message.secrets)} entries: at most {MAX_SECRETS} are allowed", field=f"{field}.secrets"
        )
    for place, secret in enumerate(message.secrets):
        try:
            key_of(secret)
        except ValueError as error:
            raise InvalidRequest(f"{field}.secrets[{place}] {error}", field=f"{field}.secrets") from None


def policy_stored(message: policy_pb2.WebhookPolicy) -> WebhookPolicy:
    """The webhook of a type that was checked before."""
    return WebhookPolicy(message.task_type, message.url, _states_stored(message.states), tuple(message.secrets))


def policy_out(policy: WebhookPolicy) -> policy_pb2.WebhookPolicy:
    """The webhook of a type as the journal has it, with its secrets."""
    states = () if policy.states == ALL_ENDS else sorted(policy.states)
    return policy_pb2.WebhookPolicy(
        task_type=policy.task_type,
        url=policy.url,
        states=[cast("common_pb2.TaskState.ValueType", int(state)) for state in states],
        secrets=policy.secrets,
        secret_count=len(policy.secrets),
    )


def policy_shown(message: policy_pb2.WebhookPolicy) -> None:
    """Takes out of a message what nobody is shown."""
    message.ClearField("secrets")
