"""Provenance of a search: versions, machine, command, images, and copies of the latency tables."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...files import ensure_folder, write_atomic
from ...lut.predictor import Predictor
from ..data.datasets import SegmentationDataset

if TYPE_CHECKING:
    from pydantic import JsonValue

PROVENANCE_FILE, TABLES_FOLDER = "provenance.json", "tables"
PACKAGES = ("lgc", "torch", "numpy", "pillow", "lightning-fabric", "torchmetrics")


def write_provenance(
    out: Path, predictors: Sequence[Predictor], halves: tuple[SegmentationDataset, SegmentationDataset]
) -> None:
    """Write `provenance.json` into a run folder, and copies of the latency tables under `tables`.

    A resumed search keeps its first provenance, and adds the command and versions of the resumption. Where tables or
    images differ, an earlier call left no checkpoint, and its provenance is overwritten.

    Args:
        out: run folder.
        predictors: one predictor per table.
        halves: images for the weights and for the architecture; their names and sizes are recorded.
    """
    images = {
        name: {"count": len(half), "digest": hash_images(half), "names": [pair.image.name for pair in half.pairs]}
        for name, half in zip(("weights", "architecture"), halves, strict=True)
    }
    if (out / PROVENANCE_FILE).exists():
        content: dict[str, Any] = json.loads((out / PROVENANCE_FILE).read_text())
        fingerprints = [row["fingerprint"] for row in content["tables"]]
        if fingerprints == [predictor.fingerprint for predictor in predictors] and content["images"] == images:
            content.setdefault("resumed", []).append(_describe_environment())
            write_atomic(out / PROVENANCE_FILE, json.dumps(content, indent=2) + "\n")
            return
    folder = ensure_folder(out / TABLES_FOLDER)
    copies = []
    for index, predictor in enumerate(predictors):
        copy = folder / f"{index}-{predictor.table_path.name}"
        write_atomic(copy, predictor.table_path.read_bytes())
        copies.append({"file": f"{TABLES_FOLDER}/{copy.name}", "fingerprint": predictor.fingerprint})
    content = {**_describe_environment(), "tables": copies, "images": images}
    write_atomic(out / PROVENANCE_FILE, json.dumps(content, indent=2) + "\n")


def _describe_environment() -> dict[str, JsonValue]:
    """Return command, versions and machine of this process."""
    return {
        "command": [*sys.argv],
        "python": platform.python_version(),
        "packages": {name: _find_version(name) for name in PACKAGES},
        "machine": platform.platform(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def hash_images(half: SegmentationDataset) -> str:
    """Return 12 hexadecimal digits, a hash of the names and sizes of all images and labels."""
    sizes = [(p.image.name, *(f.stat().st_size for f in (p.image, p.label) if f is not None)) for p in half.pairs]
    return hashlib.sha256(repr(sizes).encode()).hexdigest()[:12]


def _find_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
