"""Decisions as plain functions and small state machines over plain data; time and chance are
arguments.
"""
