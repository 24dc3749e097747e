"""The timing protocol: workloads, rounds, stopping rules."""
