"""Workers that fill a latency table, on one device or several."""
