"""The coordinator, but for this: tasks may be purged soon after their end, and not only ten minutes later."""

import sys

from coordinator import __main__ as command
from coordinator.rpc import bulk_ended

if __name__ == "__main__":
    bulk_ended.MIN_RETAINED_MS = 100
    sys.exit(command.main())
