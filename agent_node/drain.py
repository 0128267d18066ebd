"""The steps of an agent's leaving, by time alone."""

from enum import Enum

# After the deadline handlers get this long to clean up. Then their attempts are given back, ended or not.
CLEAN_UP_S = 2.0
# And the coordinator gets this long to answer what was given back.
ANSWER_S = 5.0


class Drain:
    """One leaving.

    Args:
        reason: why, for the coordinator and the queue.
        begun_s: now.
        deadline_s: how long handlers may go on.
    """

    class Step(Enum):
        """What is due, in this order."""

        WAIT = "WAIT"
        STOP_HANDLERS = "STOP_HANDLERS"
        GIVE_BACK = "GIVE_BACK"
        GIVE_UP = "GIVE_UP"

    def __init__(self, *, reason: str, begun_s: float, deadline_s: float) -> None:
        self.reason = reason
        self.next_at_s = begun_s + deadline_s
        self._next = Drain.Step.STOP_HANDLERS

    def shorten(self, deadline_at_s: float) -> None:
        """Brings the deadline forward; one that has passed, or a later one, changes nothing."""
        if self._next is Drain.Step.STOP_HANDLERS:
            self.next_at_s = min(self.next_at_s, deadline_at_s)

    def advance(self, now_s: float) -> "Drain.Step":
        """The step that is due now, each once, or WAIT."""
        if now_s < self.next_at_s:
            return Drain.Step.WAIT
        due = self._next
        match due:
            case Drain.Step.STOP_HANDLERS:
                self._next, self.next_at_s = Drain.Step.GIVE_BACK, now_s + CLEAN_UP_S
            case Drain.Step.GIVE_BACK:
                self._next, self.next_at_s = Drain.Step.GIVE_UP, now_s + ANSWER_S
            case Drain.Step.GIVE_UP | Drain.Step.WAIT:
                self.next_at_s = float("inf")
        return due
