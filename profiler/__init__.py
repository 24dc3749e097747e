"""Measuring on a device: operators for a table, networks to verify it, exported files against its prediction."""

if __package__ == "profiler":
    raise ImportError("import lgc.profiler, not profiler: the repository root is the package lgc")
