"""The journal: an append-only log for each shard, and the records of its ended tasks, in Redis or in memory."""
