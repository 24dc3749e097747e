"""Checkpoints: foreign files are named and never executed."""

from __future__ import annotations

import pytest
import torch

from lgc.errors import FileFormatError
from lgc.search.runtime import checkpoint


class Code:
    def __reduce__(self):
        return (print, ("executed",))


def test_checkpoint_with_code_is_refused(tmp_path, capsys):
    path = tmp_path / "train.ckpt"
    assert checkpoint.load(path) is None
    torch.save({"step": 1, "code": Code()}, path)
    with pytest.raises(FileFormatError, match=r"it holds code \(.*print\), which is not executed; delete it"):
        checkpoint.load(path)
    path.write_bytes(b"\x89PNG")
    with pytest.raises(FileFormatError, match="it is a PNG image; delete it"):
        checkpoint.load(path)
    assert capsys.readouterr().out == ""
