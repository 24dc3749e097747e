"""The console commands: parse, call, print."""
