"""Measurements of Baton on this machine; `python -m bench.serving` runs them."""
