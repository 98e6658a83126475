"""What Baton's processes share."""
