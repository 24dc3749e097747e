"""Version of lgc."""

__version__ = "0.1.0"
