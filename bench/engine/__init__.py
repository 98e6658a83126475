"""The engine by itself on a CPU, beside other engines on the same checkpoint, in one run."""
