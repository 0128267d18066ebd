"""When a circuit breaker opens, and for how long."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BreakerRules:
    """One failing task opens nothing: each counts once (see breaker_results), and it takes several, or a share of many."""

    consecutive_failures: int = 5  # tasks that fail in a row; 0: it doesn't open for that
    failure_rate: float = 0.5  # or this share of the results within the window; 0: it doesn't open for that
    min_results: int = 20  # that the window must hold for it: a share of few says little
    window_s: float = 60.0
    open_s: float = 30.0  # until the first probe: as long as a lease; doubled after each probe that fails
    max_open_s: float = 300.0  # so that an agent that has recovered is back in minutes
    max_open_share: float = 0.5  # of the agents that offer a type may be shut out of it: never a whole fleet

    def never_open(self) -> bool:
        """Whether nothing opens it."""
        return not self.consecutive_failures and not self.failure_rate
