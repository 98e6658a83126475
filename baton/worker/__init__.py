"""What prefill and decode workers share: an engine in a process, and whom it tells."""
