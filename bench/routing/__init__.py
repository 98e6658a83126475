"""`make bench-routing`: routing on traces, simulated and on real processes, and its speed."""
