"""Pages from tables, runs and results."""

if __package__ == "report":
    raise ImportError("import lgc.report, not report: the repository root is the package lgc")
