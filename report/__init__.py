"""Pages from tables, runs and results."""
