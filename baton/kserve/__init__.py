"""The Open Inference Protocol (KServe v2): generated stubs of our own wire-compatible definition."""
