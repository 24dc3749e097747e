"""Modules of the GPU check, as `check.py` imports them."""

import importlib
import sys
from pathlib import Path

import pytest

GPU = Path(__file__).resolve().parents[1] / "gpu"


@pytest.fixture(scope="session")
def checks():
    """Return the package `checks` with its modules imported."""
    sys.path.insert(0, str(GPU))
    try:
        package = importlib.import_module("checks")
        for name in ("common", "record", "process", "committed", "page", "settings", "table"):
            importlib.import_module(f"checks.{name}")
        yield package
    finally:
        sys.path.remove(str(GPU))
