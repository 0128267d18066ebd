"""The engine: the single writer of each shard, and who waits for what it writes."""
