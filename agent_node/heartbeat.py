"""When to renew, and when a coordinator that doesn't answer counts as gone. Time alone."""

DEFAULT_PERIOD_S = 5.0  # when a coordinator names none
UNANSWERED_PERIODS = 2
_NEVER = float("inf")


class Heartbeat:
    """One stream's renewals."""

    def __init__(self) -> None:
        self._period_s = DEFAULT_PERIOD_S
        self._beat_at_s = _NEVER
        self._unanswered_since_s = _NEVER

    @property
    def patience_s(self) -> float:
        """How long an answer may take."""
        return UNANSWERED_PERIODS * self._period_s

    @property
    def next_at_s(self) -> float:
        """When `due` or `silent` next changes its answer."""
        return min(self._beat_at_s, self._unanswered_since_s + self.patience_s)

    def start(self, now_s: float, *, period_s: float) -> None:
        """The stream is open; a period of 0 is the default."""
        self._period_s = period_s or DEFAULT_PERIOD_S
        self._beat_at_s = now_s + self._period_s

    def stop(self) -> None:
        """The stream is gone."""
        self._beat_at_s = self._unanswered_since_s = _NEVER

    def due(self, now_s: float) -> bool:
        """Whether it is time to renew."""
        return now_s >= self._beat_at_s

    def beat(self, now_s: float) -> None:
        """A Renew is to go out. Silence counts from here, not from when it is written: a write that is stuck is silence, too."""
        self._beat_at_s = now_s + self._period_s
        self._unanswered_since_s = min(self._unanswered_since_s, now_s)

    def answered(self) -> None:
        """A RenewAck has come."""
        self._unanswered_since_s = _NEVER

    def silent(self, now_s: float) -> bool:
        """Whether the coordinator has been silent for too long."""
        return now_s >= self._unanswered_since_s + self.patience_s
