"""Kernels of Baton: one folder per op with its contract, reference and implementations."""
