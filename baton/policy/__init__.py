"""Decisions as pure functions and small state machines; time and chance are arguments."""
