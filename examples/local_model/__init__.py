"""A small model on this machine, behind the API that hosted ones have: extractive, computed from each prompt, no download, no key."""
