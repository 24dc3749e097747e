"""Built-in search spaces as YAML files."""
