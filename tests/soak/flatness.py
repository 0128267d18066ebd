"""Whether a series is flat: decided by a robust regression over what comes after the warm-up.

The slope is Theil and Sen's: the median of the slopes between all pairs of samples, which up to 29 % of outliers don't move.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

WARM_UP_SHARE = 1 / 3  # of a series: what comes before isn't looked at
MIN_SAMPLES = 12
MIN_GROWTH_BYTES = 4_000_000  # allocators come back with a page more or less
MIN_GROWTH_SHARE = 0.03  # of the median

Sample = tuple[float, float]
"""Seconds, and a value."""


@dataclass(frozen=True, slots=True)
class Trend:
    """How a series went after its warm-up.

    Attributes:
        median: of its values.
        growth: by how much it grew, by its slope times the time looked at; negative if it shrank.
        allowed: how much it may.
        seconds: the time looked at.
    """

    median: float
    growth: float
    allowed: float
    seconds: float

    @property
    def is_flat(self) -> bool:
        return self.growth <= self.allowed


def trend(samples: Sequence[Sample]) -> Trend | None:
    """How a series of bytes went. None when there is too little of it to say.

    It may grow by 4 MB or 3 % of its median, whichever is more, over the last two thirds. At 2,000 tasks a second and ten minutes, 4 MB are
    5 bytes a task: an object of 50 bytes that one task in ten leaves behind fails.
    """
    if not samples:
        return None
    begin_s, end_s = samples[0][0], samples[-1][0]
    steady = [sample for sample in samples if sample[0] >= begin_s + (end_s - begin_s) * WARM_UP_SHARE]
    if len(steady) < MIN_SAMPLES:
        return None
    middle = median(value for _, value in steady)
    seconds = steady[-1][0] - steady[0][0]
    return Trend(middle, slope(steady) * seconds, max(MIN_GROWTH_BYTES, MIN_GROWTH_SHARE * middle), seconds)


def slope(samples: Sequence[Sample]) -> float:
    """Theil and Sen's, in units of the value a second."""
    slopes = [(later - earlier) / (later_s - earlier_s) for (earlier_s, earlier), (later_s, later) in combinations(samples, 2)]
    return median(slopes)
