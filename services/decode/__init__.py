"""Owns requests from acceptance to the last token."""
