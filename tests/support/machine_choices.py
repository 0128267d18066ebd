"""What Hypothesis chooses from when it commands a scheduler."""

from typing import Any

from hypothesis import strategies as st
from muster.v1 import common_pb2

from coordinator.core.breaker_rules import BreakerRules
from coordinator.core.model import RetryPolicy, Settings
from coordinator.core.policies import BreakerPolicy, ConcurrencyLimitPolicy, CordonPolicy, PausePolicy, RateLimitPolicy, WhenFull
from tests.support.core_world import FAILED, FAILED_FOR_GOOD, GIVEN_BACK, STOPPED, SUCCESS

RULES = BreakerRules(
    consecutive_failures=2, failure_rate=0.6, min_results=3, window_s=12.0, open_s=4.0, max_open_s=12.0, max_open_share=1.0
)
SETTINGS = Settings(
    max_deliveries=3, retry=RetryPolicy(max_retries=1, max_crashes=1), ageing_period_s=20, max_sticky_keys=1, breakers=RULES
)
AGENTS = st.sampled_from(["ann", "bob", "cai"])
IDS = st.integers(0, 9).map("task{}".format)
RESULTS = st.sampled_from([SUCCESS, FAILED, FAILED_FOR_GOOD, STOPPED, GIVEN_BACK])
PICKS = st.integers(0, 30)
OFFERS = ["ab", "abc", "a", "c"]
LABELS = st.sampled_from([{}, {"zone": "x"}, {"zone": "y", "gpu": "yes"}])
SELECTORS = [
    [],
    [common_pb2.LabelSelector(label="zone", operator=common_pb2.LABEL_OPERATOR_IN, values=["x", "y"])],
    [common_pb2.LabelSelector(label="zone", operator=common_pb2.LABEL_OPERATOR_NOT_IN, values=["x"])],
    [common_pb2.LabelSelector(label="gpu", operator=common_pb2.LABEL_OPERATOR_EXISTS)],
    [common_pb2.LabelSelector(label="gpu", operator=common_pb2.LABEL_OPERATOR_NOT_EXISTS)],
]
SCHEDULING: st.SearchStrategy[dict[str, Any]] = st.just({}) | st.fixed_dictionaries(
    {},
    optional={
        "fairness_key": st.sampled_from(["x", "y"]),
        "cost": st.sampled_from([0.5, 3]),
        "slots": st.integers(1, 3),
        "selectors": st.sampled_from(SELECTORS),
        "min_version": st.integers(0, 2),
        "sticky_key": st.sampled_from(["u", "v"]),
        "concurrency_key": st.sampled_from(["c1", "c2", "d"]),
        "rate_key": st.sampled_from(["r1", "r2", "s"]),
    },
)
TIMING: st.SearchStrategy[dict[str, Any]] = st.just({}) | st.fixed_dictionaries(
    {},
    optional={
        "delay_s": st.sampled_from([0.5, 5, 30]),
        "queue_timeout_s": st.sampled_from([0.7, 11]),
        "deadline_s": st.sampled_from([31, 60, 1001]),
    },
)
PATTERNS = {"concurrency_key": ["c*", "c1", "d", "*"], "rate_key": ["r*", "r1", "s", "*"], "task_type": ["a", "b", "*"]}
LIMITS = st.one_of(
    st.builds(
        ConcurrencyLimitPolicy,
        st.sampled_from(PATTERNS["concurrency_key"]),
        st.just(""),
        st.integers(0, 3),
        st.sampled_from([WhenFull.WAIT, *WhenFull]),
    ),
    st.builds(ConcurrencyLimitPolicy, st.just(""), st.sampled_from(PATTERNS["task_type"]), st.integers(0, 3)),
    st.builds(RateLimitPolicy, st.sampled_from(PATTERNS["rate_key"]), st.just(""), st.integers(0, 3), st.just(10_000)),
    st.builds(RateLimitPolicy, st.just(""), st.sampled_from(PATTERNS["task_type"]), st.integers(0, 3), st.just(10_000)),
)
PAUSES = st.builds(
    PausePolicy,
    st.sampled_from(["a", "b", "*", ""]).map(lambda one: "a*" if one == "*" else one),
    st.just(""),
    st.sampled_from([0, 0, 5000]),
) | st.builds(CordonPolicy, AGENTS)
BREAKERS = st.builds(
    BreakerPolicy,
    st.sampled_from(["a", "", "a*"]),
    st.sampled_from([None, 0, 1, 3]),
    st.sampled_from([None, 0.0, 0.5]),
    max_open_share=st.sampled_from([None, 0.7, 0.1]),
)
JUMPS_S = st.sampled_from([0.1, 0.6, 1, 5, 10.5, 15.5, 31, 1000])
