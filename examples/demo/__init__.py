"""The main job on real documents: a coordinator, five agent processes, one of them killed halfway, and a report on disk."""
