"""The search spaces that come with lgc, as YAML files."""
