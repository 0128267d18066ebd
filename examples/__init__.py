"""Programs that show Muster at work."""
