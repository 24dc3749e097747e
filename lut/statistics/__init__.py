"""Statistics of latencies: estimates, drift correction, calibration, interpolation."""
