"""Fixtures of the backends' tests."""

import sys

import pytest


@pytest.fixture
def without(monkeypatch):
    """Return a function that makes a package look uninstalled."""
    return lambda name: monkeypatch.setitem(sys.modules, name, None)
