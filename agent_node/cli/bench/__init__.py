"""`muster bench dispatch`: what this machine, this coordinator and this store can move, measured end to end."""
