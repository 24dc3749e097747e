"""Measuring on a device: operators for a table, networks to verify it, exported files against its prediction."""
