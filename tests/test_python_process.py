"""Processes of tests import what the tests import, and show why they fail."""

import os

import pytest

from .python_process import python_output

SHOW_PATH = "import os; print(os.environ['PYTHONPATH'])"


def test_folders_come_before_the_pythonpath(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    assert python_output("-c", SHOW_PATH, folders=[tmp_path]).strip() == f"{tmp_path}{os.pathsep}/somewhere"
    assert python_output("-c", SHOW_PATH).strip() == "/somewhere"
    monkeypatch.delenv("PYTHONPATH")
    assert python_output("-c", SHOW_PATH, folders=[tmp_path]).strip() == str(tmp_path)


def test_variables_are_set_and_left_out(monkeypatch):
    monkeypatch.setenv("UNWANTED", "1")
    program = "import os; print(os.environ.get('UNWANTED'), os.environ.get('WANTED'))"
    assert python_output("-c", program, without=["UNWANTED"], environment={"WANTED": "2"}).split() == ["None", "2"]


def test_failure_shows_stderr():
    with pytest.raises(AssertionError, match="no such device"):
        python_output("-c", "raise SystemExit('no such device')")
