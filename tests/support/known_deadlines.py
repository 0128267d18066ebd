"""What follows from a task's own story: its deadlines, and what its attempts cost it."""

from coordinator.core.events import AttemptFailed, Cost
from coordinator.core.model import INFINITY, Failure, FailureKind, Now
from tests.support.known_tasks import Story


def deadline_ends(story: Story, event: AttemptFailed, now: Now) -> None:
    """An attempt's end is its task's for its deadline alone: it has passed, or a backoff would end after it."""
    if event.reported or event.cost is not Cost.NONE:
        backoff = story.spec.retry.max_backoff_s * 1000
        assert now.date_ms + backoff >= deadline_ms(story), "it could have been tried again"
    else:
        assert now.date_ms >= deadline_ms(story), "it had time left"


def deadline_ms(story: Story) -> float:
    """When a task must have ended."""
    return story.created_ms + story.spec.timing.deadline_ms if story.spec.timing.deadline_ms else INFINITY


def overdue_at_ms(story: Story) -> tuple[float, str]:
    """When a task must fail, as things are, and with what kind of failure."""
    queue_ms = INFINITY
    if story.spec.timing.queue_timeout_ms and story.place and not story.assigned:
        queue_ms = story.ready_since_ms + story.spec.timing.queue_timeout_ms
    ends_ms = deadline_ms(story)
    return (queue_ms, "QUEUE_TIMEOUT") if queue_ms <= ends_ms else (ends_ms, "DEADLINE")


def charge(story: Story, cost: Cost, max_deliveries: int) -> bool:
    """Books what an attempt cost. Answers whether that was one too many."""
    policy = story.spec.retry
    match cost:
        case Cost.RETRY:
            story.retries += 1
            return story.retries > policy.max_retries
        case Cost.CRASH:
            story.crashes += 1
            return story.crashes > policy.max_crashes
        case Cost.DELIVERY:
            story.undelivered += 1
            return story.undelivered >= max_deliveries
        case Cost.NONE:
            return False


def before_deadline(event: AttemptFailed) -> Failure:
    """What an agent's attempt came to, where the event says that its task can't be tried again before its deadline."""
    if event.failure.kind is not FailureKind.DEADLINE or not (event.reported or event.cost is not Cost.NONE):
        return event.failure
    return Failure(FailureKind.LEASE_LOST if event.cost is Cost.CRASH else FailureKind.APPLICATION, event.failure.message)
