"""What every process shares: settings, lifecycle, channels, status codes, logs, traces, metrics."""
