"""The remainder of a prediction is divided into noise and what repeats, and pairs are found where they matter."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lgc.lut.predictor import Predictor
from lgc.profiler.verification import VerifiedNetwork

from .remainder import explain_remainder

NETWORKS = 60


@pytest.fixture
def networks(mini_space, make_table):
    """Return a function from noise (%) and the effect of pairs (%) to a table and networks with such latencies."""
    table = make_table(mini_space, "mini.lut")
    predictor = Predictor(mini_space, table)
    rng = np.random.default_rng(0)

    def make(noise_pct: float, pairs_pct: float):
        rows = []
        for index in range(NETWORKS):
            architecture = mini_space.sample(index)
            predicted = predictor.predict(architecture)
            nodes = [
                [names[edge] for edge in cell.edges_into(node)]
                for cell, names in architecture.iter_cells()
                for node in range(cell.nodes)
            ]
            pairs = sum(math.comb(names.count("sep_conv_3x3"), 2) for names in nodes)
            true = predicted * (1 + pairs_pct / 100 * pairs)
            halves = true * (1 + noise_pct / 100 * rng.standard_normal(2))
            rows.append(VerifiedNetwork(architecture, predicted, float(halves.mean()), tuple(halves.tolist())))
        return table, rows

    return make


def test_noise_is_not_taken_for_error(networks):
    result = explain_remainder(*networks(2.0, 0.0))
    assert result["noise_pct"] == pytest.approx(2.0 / 2**0.5, rel=0.2)
    assert result["repeatable_pct"] < 0.8


def test_what_repeats_is_not_taken_for_noise(networks):
    result = explain_remainder(*networks(0.4, 2.0))
    assert result["noise_pct"] == pytest.approx(0.4 / 2**0.5, rel=0.2)
    assert 0.8 < result["repeatable_pct"] < 3.0
    pairs = result["added"]["a term for each pair of operators summed in a node"]
    assert pairs["change_pct"] < -0.25 * result["kinds_mape_pct"]
    assert pairs["change_pct"] < -2 * pairs["standard_error_pct"]


def test_pairs_that_do_not_matter_are_left_out(networks):
    result = explain_remainder(*networks(1.0, 0.0))
    for name, row in result["added"].items():
        assert abs(row["change_pct"]) < 0.15 * result["kinds_mape_pct"], name
