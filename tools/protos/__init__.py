"""Checks of the wire contract, and the making of its stubs."""
