"""Table files of the tests of `lgc-lut`."""

import numpy as np
import pytest

FASTERSEG = {
    "ConvNorm_H1024_W2048_Cin3_Cout32_kernel3_stride2": 0.75,
    "BasicResidual1x_H128_W256_Cin64_Cout96_stride1_dilation1": 0.25,
    "BasicResidual2x_H128_W256_Cin64_Cout64_stride1_dilation1": 0.5,
    "ff_H128_W256_C64": 0.3,
}


@pytest.fixture
def two(make_table, mini_space):
    """Return two tables of a space, a.lut and b.lut; an operator is 50 % slower in b."""
    a, b = make_table(mini_space, "a.lut"), make_table(mini_space, "b.lut")
    with b.store.transaction() as connection:
        connection.execute("UPDATE entries SET latency_ms = 1.5 * latency_ms WHERE rowid = 3")
    key = a.entries()[2].key
    paths = a.path, b.path
    a.close()
    b.close()
    return (*paths, key)


@pytest.fixture
def npy(tmp_path):
    """Return a small latency table of FasterSeg."""
    np.save(tmp_path / "table.npy", FASTERSEG)
    return tmp_path / "table.npy"
