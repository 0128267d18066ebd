"""The coordinator: it owns the priority queue and the load map, and journals both."""

import os

# gRPC reads it when it is first used. Its handlers for forked children crash some that are forked while calls are under way.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
