"""Measures each op of `kernels/` against the machine's floor and torch's own composition."""
