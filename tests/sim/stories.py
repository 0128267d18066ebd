"""What the journal of a simulation says of each task, as its auditor remembers it."""

from dataclasses import dataclass, field


@dataclass
class Story:
    """What the journal says of one run of a task; what agents may still speak of is of all its runs."""

    spec: object
    created_ms: int  # its run
    accepted_ms: int  # its first run
    run: int = 1
    priority: int = 0
    holder: str = ""
    fence: int = 0
    fences: dict = field(default_factory=dict)  # to the checkpoint that each began with
    accepted: set = field(default_factory=set)  # fences whose results were taken
    attempt: int = 0
    retries: int = 0
    crashes: int = 0
    undelivered: int = 0
    checkpoint: bytes = b""
    stored_checkpoints: set = field(default_factory=set)
    cancelled: bool = False
    is_pending: bool = False  # ready, and neither held, nor in backoff, nor ended
    place: int = 0  # when it first became ready, by count; 0 before
    ready_ms: int = 0  # likewise, by date
    has_begun: bool = False
    end: str = ""
    is_told: bool = False  # it is known who must be told of its end
