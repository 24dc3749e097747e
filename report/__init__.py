"""Report pages from tables, runs and results."""
