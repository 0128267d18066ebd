"""The SDK: agents that run tasks, and clients that submit them."""
