"""What else is needed to repeat a search: versions, machine, command, images, and the tables themselves."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ...files import ensure_folder, write_atomic
from ...lut.predictor import Predictor
from ..data.datasets import SegmentationDataset

PROVENANCE_FILE, TABLES_FOLDER = "provenance.json", "tables"
PACKAGES = ("lgc", "torch", "numpy", "pillow", "lightning-fabric", "torchmetrics")


def write_provenance(
    out: Path, predictors: Sequence[Predictor], halves: tuple[SegmentationDataset, SegmentationDataset]
) -> None:
    """Write `provenance.json` into a run folder, and copies of the latency tables under `tables`.

    A search that is gone on with keeps what it began with, and adds the command and the versions that went on. One that
    left a folder before its first checkpoint may have had other tables or images; it is forgotten.

    Args:
        out: the run folder.
        predictors: of the tables.
        halves: images for the weights and for the architecture; their names and sizes are written down.
    """
    images = {
        name: {"count": len(half), "digest": hash_images(half), "names": [pair.image.name for pair in half.pairs]}
        for name, half in zip(("weights", "architecture"), halves, strict=True)
    }
    if (out / PROVENANCE_FILE).exists():
        content: dict[str, Any] = json.loads((out / PROVENANCE_FILE).read_text())
        known = [row["fingerprint"] for row in content["tables"]]
        if known == [predictor.fingerprint for predictor in predictors] and content["images"] == images:
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


def _describe_environment() -> dict[str, Any]:
    """Command, versions and machine of this process."""
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "machine": platform.platform(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def hash_images(half: SegmentationDataset) -> str:
    """Twelve hexadecimal digits that change with any name or size of an image or label."""
    sizes = [(p.image.name, *(f.stat().st_size for f in (p.image, p.label) if f is not None)) for p in half.pairs]
    return hashlib.sha256(repr(sizes).encode()).hexdigest()[:12]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
