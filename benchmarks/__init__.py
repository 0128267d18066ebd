"""Measurements for those who change the code. `muster bench` measures a whole deployment."""
