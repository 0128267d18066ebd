"""Answers as tables and colour, for a person at a terminal. Nothing here talks to anyone: messages in, rich's renderables out."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from muster.v1 import admin_pb2, agent_pb2, common_pb2, policy_pb2, task_pb2
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from agent_node.cli.breaker_cells import breaker_cells, breaker_line
from agent_node.cli.limit_cells import concurrency_cells, rate_cells
from agent_node.cli.pause_cells import cordon_cells, pause_cells
from agent_node.cli.payloads import payload_text
from agent_node.cli.times import NONE, local_time

STATE_STYLES = {
    common_pb2.TASK_STATE_PENDING: "blue",
    common_pb2.TASK_STATE_RUNNING: "cyan",
    common_pb2.TASK_STATE_RETRYING: "yellow",
    common_pb2.TASK_STATE_COMPLETED: "green",
    common_pb2.TASK_STATE_FAILED: "bold red",
    common_pb2.TASK_STATE_CANCELLED: "magenta",
}
_LIVE = (common_pb2.TASK_STATE_PENDING, common_pb2.TASK_STATE_RUNNING, common_pb2.TASK_STATE_RETRYING)
AGENT_STYLES = {
    agent_pb2.AGENT_STATE_CONNECTED: "green",
    agent_pb2.AGENT_STATE_DISCONNECTED: "bold red",
    agent_pb2.AGENT_STATE_DRAINING: "yellow",
    agent_pb2.AGENT_STATE_CORDONED: "yellow",
}
CANCEL_STYLES = {
    task_pb2.CANCEL_VERDICT_CANCELLED: "green",
    task_pb2.CANCEL_VERDICT_REQUESTED: "yellow",
    task_pb2.CANCEL_VERDICT_ALREADY_ENDED: "blue",
    task_pb2.CANCEL_VERDICT_NOT_FOUND: "bold red",
}


def short_name(enum_name: str, prefix: str) -> str:
    """An enum value's name without its prefix, in lower case and with spaces: what a person reads."""
    return enum_name.removeprefix(prefix).replace("_", " ").lower()


def state_text(state: common_pb2.TaskState.ValueType) -> Text:
    """A task's state, in its colour."""
    return Text(short_name(common_pb2.TaskState.Name(state), "TASK_STATE_"), STATE_STYLES.get(state, ""))


def priority_name(priority: common_pb2.Priority.ValueType) -> str:
    """A priority's name, in lower case."""
    return short_name(common_pb2.Priority.Name(priority), "PRIORITY_")


def seconds_between(start: Timestamp, end: Timestamp) -> float | None:
    """How long something took; None while one end is open."""
    if not start.ByteSize() or not end.ByteSize():
        return None
    moments: list[datetime] = [stamp.ToDatetime(tzinfo=UTC) for stamp in (start, end)]
    return (moments[1] - moments[0]).total_seconds()


def duration_text(duration: Duration) -> str:
    """A duration in the unit that suits it."""
    return seconds_text(duration.ToTimedelta().total_seconds())


def seconds_text(seconds: float) -> str:
    """Seconds in the unit that suits them: 250 ms, 2.5 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"


def progress_text(progress: common_pb2.Progress) -> str:
    """How far a task is: a percentage where the total is known, and what the handler said."""
    done = f"{progress.current:g}" if progress.current else ""
    if progress.total > 0:
        done = f"{100 * progress.current / progress.total:.0f} %"
    return " ".join(part for part in (done, progress.message) if part)


def situation(task: task_pb2.Task) -> str:
    """The one thing worth knowing about a task now: why it waits, how far it is, or what went wrong."""
    if task.cancel_requested and task.state in _LIVE:
        return "cancel delivered" if task.cancel_delivered else "cancel requested"
    if task.waits_for.message:
        return task.waits_for.message
    if task.state == common_pb2.TASK_STATE_RUNNING:
        return progress_text(task.progress)
    if task.state in (common_pb2.TASK_STATE_FAILED, common_pb2.TASK_STATE_RETRYING):
        return task.last_failure.message
    return ""


def new_table(*headings: str) -> Table:
    """An empty table with these columns."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def facts_table(rows: Iterable[tuple[str, str | Text]]) -> Table:
    """Names and values, but for those that have none."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        if value and value != NONE:
            table.add_row(name, value)
    return table


def tasks_table(tasks: Iterable[task_pb2.Task]) -> Table:
    """Many tasks, a row each."""
    table = new_table("task", "type", "state", "priority", "attempt", "agent", "created", "situation")
    for task in tasks:
        table.add_row(
            Text(task.task_id),
            Text(task.task_type),
            state_text(task.state),
            priority_name(task.priority),
            str(task.attempt),
            Text(task.agent_name or NONE),
            local_time(task.create_time),
            Text(situation(task)),
        )
    return table


def task_details(task: task_pb2.Task) -> Group:
    """One task with all that is known of it, as facts followed by its payload and its result."""
    took_s = seconds_between(task.start_time, task.end_time)
    facts: list[tuple[str, str | Text]] = [
        ("task", Text(task.task_id, "bold")),
        ("type", Text(task.task_type)),
        ("state", state_text(task.state)),
        ("priority", priority_name(task.priority)),
        ("situation", Text(situation(task))),
        ("agent", Text(task.agent_name)),
        ("attempt", f"{task.attempt} of run {task.run}" if task.attempt else ""),
        ("retries", f"{task.retry_count} of {task.max_retries}"),
        ("crashes", str(task.crash_count) if task.crash_count else ""),
        ("undelivered", str(task.undelivered_count) if task.undelivered_count else ""),
        ("fence", str(task.fence) if task.fence else ""),
        ("parent", Text(task.parent_task_id)),
        ("labels", Text(" ".join(f"{name}={value}" for name, value in sorted(task.labels.items())))),
        ("created", local_time(task.create_time)),
        ("ready", local_time(task.ready_time)),
        ("started", local_time(task.start_time)),
        ("queue deadline", local_time(task.queue_deadline_time)),
        ("deadline", local_time(task.deadline_time)),
        ("ended", local_time(task.end_time) + (f", after {seconds_text(took_s)}" if took_s is not None else "")),
        ("failure", failure_text(task.last_failure)),
        *(("usage", _usage_text(usage)) for usage in task.usage),
    ]
    sections: list[Table | Text] = [facts_table(facts)]
    if task.spec.payload:
        sections += _section("payload", payload_text(task.spec.payload, task.spec.content_type))
    if task.outcome.success.payload:
        sections += _section("result", payload_text(task.outcome.success.payload, task.outcome.success.content_type))
    if task.checkpoint:
        sections += _section("last checkpoint", payload_text(task.checkpoint, ""))
    return Group(*sections)


def _section(title: str, body: str) -> list[Table | Text]:
    return [Text(f"\n{title}", "dim"), Text(body)]


def failure_text(failure: common_pb2.Failure) -> Text:
    """What went wrong, in a line; empty when nothing did."""
    if not failure.ByteSize():
        return Text()
    kind = short_name(common_pb2.FailureKind.Name(failure.kind), "FAILURE_KIND_")
    return Text(f"{failure.type or kind}: {failure.message}", "red")


def _usage_text(usage: common_pb2.Usage) -> str:
    return f"{usage.model}: {usage.input_tokens} + {usage.output_tokens} tokens in {usage.requests} requests"


def explanation(answer: task_pb2.ExplainTaskResponse) -> Group:
    """Why a task waits: the sentence, and what rules each agent out."""
    head = Text.assemble((answer.summary or situation(answer.task), "bold"))
    facts = facts_table(
        [
            ("task", Text(answer.task.task_id)),
            ("type", Text(answer.task.task_type)),
            ("state", state_text(answer.task.state)),
            ("ahead", f"{answer.ahead} tasks" if answer.ahead else ""),
            ("until", local_time(answer.task.waits_for.until_time) if answer.task.waits_for.HasField("until_time") else ""),
            ("queue deadline", local_time(answer.task.queue_deadline_time) if not answer.task.HasField("start_time") else ""),
            ("deadline", local_time(answer.task.deadline_time)),
        ]
    )
    if not answer.agents:
        return Group(head, facts)
    table = new_table("agent", "running", "could take it", "ruled out by")
    for verdict in answer.agents:
        reasons = "; ".join(
            rule.message or short_name(task_pb2.RuledOutKind.Name(rule.kind), "RULED_OUT_KIND_") for rule in verdict.ruled_out
        )
        able = Text("no", "red") if verdict.ruled_out else Text("yes", "green")
        table.add_row(Text(verdict.agent_name), f"{verdict.running}/{verdict.max_concurrent_tasks}", able, Text(reasons or NONE))
    return Group(head, facts, table)


def cancels_table(answers: Iterable[task_pb2.CancelledTask]) -> Table:
    """What a cancel came to, task by task."""
    table = new_table("task", "cancel")
    for answer in answers:
        verdict = short_name(task_pb2.CancelVerdict.Name(answer.verdict), "CANCEL_VERDICT_")
        table.add_row(Text(answer.task_id), Text(verdict, CANCEL_STYLES.get(answer.verdict, "")))
    return table


def agents_table(agents: Iterable[agent_pb2.AgentInfo]) -> Table:
    """The load map's rows: who can do what, and how much of it runs."""
    table = new_table("agent", "state", "load", "can run", "labels", "since", "lag", "sdk")
    for agent in agents:
        state = short_name(agent_pb2.AgentState.Name(agent.state), "AGENT_STATE_")
        if agent.cordon_reason and agent.state == agent_pb2.AGENT_STATE_CORDONED:
            state += f" ({agent.cordon_reason})"
        state += breaker_line(agent.breakers)
        table.add_row(
            Text(agent.agent_name),
            Text(state, AGENT_STYLES.get(agent.state, "")),
            f"{agent.running}/{agent.max_concurrent_tasks}",
            Text(", ".join(sorted(capability.task_type for capability in agent.capabilities))),
            Text(", ".join(f"{key}={value}" for key, value in sorted(agent.labels.items())) or NONE),
            local_time(agent.since_time),
            duration_text(agent.loop_lag) if agent.HasField("loop_lag") else NONE,
            Text(agent.sdk or NONE),
        )
    return table


def statistics(
    stats: admin_pb2.GetQueueStatsResponse, load: admin_pb2.GetLoadMapResponse, about: admin_pb2.GetCoordinatorResponse
) -> Group:
    """A coordinator at a glance: itself, its totals, and its queues."""
    live = stats.pending + stats.running + stats.retrying
    connected = sum(agent.state == agent_pb2.AGENT_STATE_CONNECTED for agent in load.agents)
    cordoned = sum(agent.state == agent_pb2.AGENT_STATE_CORDONED for agent in load.agents)
    store = Text(about.store) if about.store_available else Text(f"{about.store} (not answering)", "bold red")
    facts = facts_table(
        [
            ("coordinator", f"{about.version}, since {local_time(about.start_time)}"),
            ("store", store),
            ("durability", Text(about.durability)),
            *([("lost writes", Text(f"{about.lost_writes}: see the coordinator's log", "bold red"))] if about.lost_writes else []),
            (
                "agents",
                f"{connected} connected, {f'{cordoned} cordoned, ' if cordoned else ''}{load.running} of {load.capacity} slots in use",
            ),
            ("live tasks", f"{live} of {stats.max_live_tasks}" if stats.max_live_tasks else str(live)),
            ("now", f"{stats.pending} pending, {stats.running} running, {stats.retrying} retrying, {stats.retained} ended and kept"),
            *(
                [
                    (
                        "webhooks",
                        f"{stats.webhooks_pending} wait, {stats.webhooks_given_up} given up: `muster webhooks deliveries` shows them",
                    )
                ]
                if stats.webhooks_pending or stats.webhooks_given_up
                else []
            ),
            (
                "since start",
                (
                    f"{stats.submitted_total} submitted, {stats.completed_total} completed, {stats.failed_total} failed, "
                    f"{stats.cancelled_total} cancelled, {stats.crashed_total} attempts lost, {stats.stale_results_total} stale results"
                ),
            ),
        ]
    )
    if not stats.queues:
        return Group(facts)
    table = new_table("type", "priority", "ready", "delayed", "running", "oldest wait", "waits for")
    for queue in stats.queues:
        table.add_row(
            Text(queue.task_type),
            priority_name(queue.priority),
            str(queue.ready),
            str(queue.delayed),
            str(queue.running),
            duration_text(queue.oldest_wait) if queue.HasField("oldest_wait") else NONE,
            Text(queue.waits_for or NONE),
        )
    return Group(facts, table)


def namespaces_table(namespaces: Iterable[admin_pb2.Namespace]) -> Table:
    """All namespaces."""
    table = new_table("namespace", "shard", "created")
    for namespace in namespaces:
        table.add_row(Text(namespace.name), str(namespace.shard), local_time(namespace.create_time))
    return table


def policies_table(policies: Iterable[policy_pb2.Policy]) -> Table:
    """Policies: kind, key, what each says, and since when."""
    table = new_table("kind", "key", "policy", "since")
    for policy in policies:
        kind = policy.WhichOneof("policy")
        key, rule = POLICY_CELLS[kind](policy) if kind in POLICY_CELLS else (NONE, "of a newer coordinator")
        table.add_row(kind or NONE, Text(key), Text(rule), local_time(policy.set_time))
    return table


def limits_text(limits: policy_pb2.NamespaceLimitsPolicy) -> str:
    """What a namespace may hold, as far as it is set."""
    set_here = [
        (limits.HasField("max_live_tasks"), f"{limits.max_live_tasks} live tasks"),
        (limits.HasField("max_live_bytes"), f"{limits.max_live_bytes} bytes of live tasks"),
        (limits.HasField("retain_for"), f"ended tasks for {duration_text(limits.retain_for)}"),
        (limits.HasField("max_retained_tasks"), f"{limits.max_retained_tasks} ended tasks"),
        (limits.HasField("max_retained_bytes"), f"{limits.max_retained_bytes} bytes of ended tasks"),
        (limits.HasField("max_state_keys"), f"{limits.max_state_keys} keys of shared state"),
        (limits.HasField("max_state_bytes"), f"{limits.max_state_bytes} bytes of shared state"),
    ]
    return "at most " + ", ".join(text for is_set, text in set_here if is_set)


POLICY_CELLS: dict[str | None, Callable[[policy_pb2.Policy], tuple[str, str]]] = {
    "weight": lambda policy: (policy.weight.fairness_key, f"weight {policy.weight.weight:g}"),
    "namespace_limits": lambda policy: (NONE, limits_text(policy.namespace_limits)),
    "retry_defaults": lambda policy: (policy.retry_defaults.task_type, _retries(policy.retry_defaults.retry_policy)),
    "pause": pause_cells,
    "cordon": cordon_cells,
    "concurrency_limit": concurrency_cells,
    "rate_limit": rate_cells,
    "breaker": breaker_cells,
    "webhook": lambda policy: (policy.webhook.task_type, _webhook_rule(policy.webhook)),
}


def _retries(policy: common_pb2.RetryPolicy) -> str:
    """What a retry policy says, and nothing of what it leaves out."""
    said = []
    for field, value in policy.ListFields():
        shown = f"{value.ToTimedelta().total_seconds():g} s" if isinstance(value, Duration) else f"{value:g}"
        said.append(f"{field.name} {shown}")
    return ", ".join(said)


def limits_table(limits: Iterable[admin_pb2.LimitUse]) -> Table:
    """Limits, and how much of each is in use."""
    table = new_table("kind", "limit", "allows", "key", "used", "waiting", "next")
    for use in limits:
        if use.policy.WhichOneof("policy") == "concurrency_limit":
            kind, (pattern, rule), used = "concurrency", concurrency_cells(use.policy), use.running
        else:
            kind, (pattern, rule), used = "rate", rate_cells(use.policy), use.started
        until = local_time(use.next_time) if use.HasField("next_time") else NONE
        table.add_row(kind, Text(pattern), Text(rule), Text(use.key or NONE), str(used), str(use.waiting), until)
    return table


def _webhook_rule(webhook: policy_pb2.WebhookPolicy) -> str:
    states = [short_name(common_pb2.TaskState.Name(state), "TASK_STATE_") for state in webhook.states]
    signed = f"signed with {webhook.secret_count} secret{'s' * (webhook.secret_count != 1)}" if webhook.secret_count else "unsigned"
    return f"{webhook.url or 'signs own webhooks only'}, {' and '.join(states) or 'every end'}, {signed}"


def deliveries_table(deliveries: Iterable[admin_pb2.WebhookDelivery]) -> Table:
    """Webhooks' deliveries: which, of what, where to, and why not yet."""
    table = new_table("number", "task", "end", "webhook", "goes to", "state", "tries", "next", "reason")
    for one in deliveries:
        given_up = one.state == admin_pb2.WEBHOOK_DELIVERY_STATE_GIVEN_UP
        table.add_row(
            str(one.number),
            Text(one.task_id),
            short_name(common_pb2.TaskState.Name(one.task_state), "TASK_STATE_"),
            Text(("of type " + one.hook if one.hook else "of every type") if one.HasField("hook") else "the task's own"),
            Text(one.origin or NONE),
            "given up" if given_up else "waits",
            str(one.attempts),
            local_time(one.next_time) if one.HasField("next_time") else NONE,
            Text(one.reason),
        )
    return table


def event_line(event: task_pb2.TaskEvent) -> Text:
    """Something that happened to a task, on one line."""
    moment = event.event_time.ToDatetime(tzinfo=UTC).astimezone().strftime("%H:%M:%S") if event.HasField("event_time") else " " * 8
    line = Text.assemble((moment, "dim"), " ", event.task_id, " ")
    match event.WhichOneof("event"):
        case "task":
            task = event.task
            line.append_text(state_text(task.state))
            if task.agent_name and task.state == common_pb2.TASK_STATE_RUNNING:
                line.append(f" on {task.agent_name}, attempt {task.attempt}")
            if note := situation(task):
                line.append(f" ({note})", "dim")
        case "progress":
            line.append(f"progress {progress_text(event.progress)}", "cyan")
        case "chunk":
            line.append(payload_text(event.chunk.data, "text/plain"))
        case "missing":
            line.append(event.missing.message or "not found", "bold red")
        case None:  # a kind of event that this version doesn't know
            line.append("changed", "dim")
    return line
