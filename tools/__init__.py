"""The console commands: parse, call, print."""

if __package__ == "tools":
    raise ImportError("import lgc.tools, not tools: the repository root is the package lgc")
