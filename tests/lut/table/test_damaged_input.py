"""Damaged tables as input raise an lgc error or give a result, and leave no file."""

import random
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgc.errors import LgcError
from lgc.lut import LatencyTable
from lgc.lut.exchange.compare import compare_tables
from lgc.lut.exchange.convert import table_to_frame
from lgc.lut.exchange.merge import merge_tables
from lgc.lut.table.upgrade import upgrade_table
from lgc.profiler.profile import calibrate
from lgc.tools.cli.lut_show import format_corrections, read_report


@pytest.fixture
def whole(carried):
    table = carried(networks=5)
    calibrate(table)
    return table


@settings(max_examples=60)
@given(st.data())
def test_changed_bytes(whole, data):
    content = bytearray(whole.path.read_bytes())
    chance = random.Random(data.draw(st.integers()))
    for _ in range(data.draw(st.integers(1, 8))):
        start, length = chance.randrange(100, len(content)), chance.choice([1, 1, 1, 20])
        content[start : start + length] = chance.randbytes(len(content[start : start + length]))
    path, out = whole.path.with_name("damaged.lut"), whole.path.with_name("merged.lut")
    path.write_bytes(content)
    with suppress(LgcError):
        upgrade_table(path)
    try:
        damaged = LatencyTable.open(path)
    except LgcError:
        return
    with damaged:
        for use in (
            lambda: compare_tables(whole, damaged),
            lambda: compare_tables(damaged, whole),
            lambda: table_to_frame(damaged),
            lambda: (format_corrections(damaged), read_report(damaged)),
            lambda: merge_tables([whole, damaged], out, calibrate),
            lambda: calibrate(damaged),
        ):
            with suppress(LgcError):
                use()
    with suppress(LgcError), LatencyTable.open(out) as merged:
        assert merged.entries()
    out.unlink(missing_ok=True)
    assert not [left for left in path.parent.iterdir() if left.name.startswith(".")]
