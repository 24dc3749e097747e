"""Comparison, merging, import and export of tables."""
