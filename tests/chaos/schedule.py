"""Which faults there are, and when which of them happens: drawn from a seed, so that the same seed and setting give the same schedule.

It says who is meant by part, such as "the primary": who that is, is asked when the time has come.
"""

import random
from dataclasses import dataclass

FIRST_S = 1.0  # after the load has begun
GAP_S = (0.6, 3.0)  # from one fault's planned end to the next one's beginning
OVERLAP = 0.3  # how often a fault begins while the one before lasts
REST_S = 3.0  # at the end, without a new fault
ALONE_S = 8.0  # for so long nothing else goes wrong when an owner is killed: how soon its shards are served again is measured


@dataclass(frozen=True, slots=True)
class Setting:
    """What processes there are.

    Args:
        coordinators, agents, sentinels: how many; agents are not fewer than 2.
        replicas: of the store's primary; 0 goes without sentinels.
    """

    coordinators: int = 3
    agents: int = 6
    sentinels: int = 3
    replicas: int = 1


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong for a while.

    Args:
        at_s: when, in seconds from the beginning.
        kind: what.
        who: whom it hits: names of processes, or "primary" and "replica".
        lasts_s: until it is undone.
        size: how much of it there is: seconds of latency, of a step, or nothing.
    """

    at_s: float
    kind: str
    who: tuple[str, ...]
    lasts_s: float
    size: float = 0.0

    def __str__(self) -> str:
        size = f" {self.size:+.3g} s" if self.size else ""
        return f"{self.at_s:6.1f} s  {self.kind}{size}: {' and '.join(self.who)}, for {self.lasts_s:.1f} s"


MEASURED = "kill coordinator"
KINDS = {
    "kill coordinator": (0.1, 6.0),  # until others have taken over, and not so long
    "stop coordinator": (0.5, 6.0),  # beyond the ownership's time to live, and below it
    "leave coordinator": (0.1, 2.0),
    "kill agent": (0.1, 2.0),
    "stop agent": (0.5, 6.0),  # beyond its lease, and below it
    "kill primary": (0.5, 3.0),
    "stop primary": (0.5, 4.0),
    "kill replica": (0.2, 2.0),
    "stop replica": (0.2, 2.0),
    "kill sentinel": (0.5, 4.0),
    "stop sentinel": (0.5, 4.0),
    "partition": (1.0, 5.0),
    "latency": (1.0, 5.0),
    "broken connections": (0.0, 0.0),
    "full disk": (0.5, 2.0),
    "clock step": (2.0, 6.0),  # the store's dates, as a coordinator sees them, there and back
    "clock jump": (0.0, 0.0),  # as when a coordinator's machine has slept
    "failover": (0.0, 0.0),
}
"""Every kind, and how many seconds it lasts, at least and at most."""


def kinds_of(setting: Setting) -> list[str]:
    """Those that this setting has the processes for."""
    needs_replica = {"kill replica", "stop replica", "kill sentinel", "stop sentinel", "failover"}
    return [kind for kind in KINDS if setting.replicas or kind not in needs_replica]


def schedule(seed: int, *, seconds: float, setting: Setting) -> list[Fault]:
    """The faults of a run, in their order.

    Args:
        seed: of all that is drawn.
        seconds: how long the run is; every fault is over by then.
        setting: who can be hit.
    """
    rng = random.Random(seed)
    faults: list[Fault] = []
    at_s, over_s = FIRST_S, FIRST_S
    bag: list[str] = []
    while True:
        if not bag:  # each kind has its turn before any comes again; what is measured comes twice
            bag = [*kinds_of(setting), MEASURED]
            rng.shuffle(bag)
        kind = bag.pop()
        lasts_s = round(rng.uniform(*KINDS[kind]), 2)
        if kind == MEASURED:
            at_s = max(at_s, over_s + 1.0)
        if at_s + lasts_s > seconds - REST_S:
            return faults
        faults.append(Fault(round(at_s, 2), kind, _who(kind, setting, rng), lasts_s, _size(kind, rng)))
        over_s = max(over_s, at_s + (ALONE_S if kind == MEASURED else lasts_s))
        overlaps = rng.random() < OVERLAP and over_s > at_s + 0.3 and kind != MEASURED
        at_s = rng.uniform(at_s + 0.3, over_s) if overlaps else over_s + rng.uniform(*GAP_S)


def _who(kind: str, setting: Setting, rng: random.Random) -> tuple[str, ...]:
    coordinators, agents = _names("coordinator", setting.coordinators), _names("agent", setting.agents)
    sentinels = _names("sentinel", setting.sentinels if setting.replicas else 0)
    match kind:
        case "partition" | "latency" | "broken connections":
            return rng.choice(_pairs(coordinators, agents, sentinels, rng))
        case "failover" | "full disk":
            return ("primary",)
        case _:
            part = kind.rpartition(" ")[2]
            many = {"coordinator": coordinators, "agent": agents, "sentinel": sentinels, "step": coordinators, "jump": coordinators}
            return (rng.choice(many[part]),) if part in many else (part,)


def _pairs(coordinators: list[str], agents: list[str], sentinels: list[str], rng: random.Random) -> list[tuple[str, str]]:
    """One pair of each kind that there is: who calls, and who is called."""
    one = rng.choice(coordinators)
    pairs = [("client", one), (rng.choice(agents), one), (one, "primary"), (one, "*"), (rng.choice(agents), "*")]
    if len(coordinators) > 1:
        pairs.append((one, rng.choice([name for name in coordinators if name != one])))
    if sentinels:
        pairs += [("replica", "primary"), (rng.choice(sentinels), "primary"), (one, rng.choice(sentinels))]
    return pairs


def _size(kind: str, rng: random.Random) -> float:
    match kind:
        case "latency":
            return round(rng.uniform(0.01, 0.3), 3)
        case "clock step":
            return rng.choice([-3600.0, -5.0, 5.0, 30.0, 3600.0])
        case "clock jump":
            return round(rng.uniform(1.0, 60.0), 1)
        case _:
            return 0.0


def _names(part: str, count: int) -> list[str]:
    return [f"{part}-{number}" for number in range(count)]
