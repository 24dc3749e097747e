"""Shared by the commands: options, tables, progress, error handling."""
