"""Cache of decoded images and labels, shared by processes, in memory or on a disk."""

from typing import Literal

CacheMode = Literal["off", "ram", "disk"]
"""Place of a cache: none, the memory, or the cache folder."""
