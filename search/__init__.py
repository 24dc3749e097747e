"""The architecture search: data, supernet, latency constraint, training."""

if __package__ == "search":
    raise ImportError("import lgc.search, not search: the repository root is the package lgc")
