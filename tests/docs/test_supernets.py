"""docs/supernets.md runs as it is written, with fewer measurements."""

import pytest
import torch

from lgc.models import OPERATORS, Space

from .pages import code_blocks, read_page

FEWER = ("networks=16", "networks=4, rounds=4")


@pytest.fixture
def example(tmp_path, monkeypatch, capfd):
    """Return the names that the page's blocks define, run one after the other."""
    monkeypatch.chdir(tmp_path)
    before = set(OPERATORS)
    source = "\n".join(code_blocks("python", read_page("supernets")))
    assert FEWER[0] in source
    names: dict[str, object] = {}
    with torch.random.fork_rng():
        exec(source.replace(*FEWER), names)
    yield names
    names["table"].close()
    for name in set(OPERATORS) - before:
        del OPERATORS[name]


def test_supernet_is_searched_under_its_latency(example):
    table, latency, predictor = (example[name] for name in ("table", "latency", "predictor"))
    assert isinstance(table.space, Space)
    assert table.metadata("verification")["dense"]["networks"] == 4
    sizes = [len(decision.choices) for decision in latency.decisions]
    one_hot = [torch.eye(size)[choice] for size, choice in zip(sizes, example["choices"], strict=True)]
    assert latency(one_hot).item() == pytest.approx(predictor.predict(example["network"]), rel=1e-5)
    assert latency(example["supernet"].probabilities()).item() < predictor.predict(predictor.slowest)
    assert all(alpha.grad is not None for alpha in example["supernet"].alphas)
