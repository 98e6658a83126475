"""Computes prompts on its device and pushes their blocks to decode workers."""
