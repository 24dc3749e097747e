"""Architecture search: data, supernet, latency constraint, selection, training."""

if __package__ == "search":
    raise ImportError("import lgc.search, not search: the repository root is the package lgc")
