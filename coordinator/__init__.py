"""The coordinator: it owns the priority queue and the load map, and journals both."""
