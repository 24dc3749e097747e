"""Write the tables of tested hardware into the pages; `make docs` runs it.

The evidence is in docs/benchmarks: JSON results of the benchmarks, and `gpu-check-*.jsonl`, one JSON object per line
with part, name, status, device_name, date and commit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "docs" / "benchmarks"
BEGIN, END = "<!-- hardware:begin -->", "<!-- hardware:end -->"
NEVER = {"cpu": "never run", "cuda": "never run on a GPU"}
PASSED, NOT_RUN = "passed", ("skipped", "committed", "not begun")


@dataclass(frozen=True)
class Evidence:
    """A committed result: device, date, commit, and whether it passed."""

    device: str
    date: str
    commit: str
    title: str
    file: str
    passed: bool = True

    @property
    def summary(self) -> str:
        """Device, date and commit, separated by commas."""
        return f"{self.device}, {self.date[:10]}, {self.commit}"


@dataclass(frozen=True)
class Row:
    """A component of lgc on one kind of device, and the results that show it has run there.

    Attributes:
        component: first cell of the row.
        kind: `cpu` or `cuda`.
        sections: keys of a benchmark's JSON object; any of them is evidence.
        backends: accepted backends of the benchmark's target; empty for all.
        parts: accepted part numbers of the GPU check.
    """

    component: str
    kind: str
    sections: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    parts: tuple[int, ...] = ()

    def match_section(self, result: dict[str, Any]) -> str | None:
        """Return the name of the first section of a benchmark's result that is evidence, or None."""
        device, backend, *_ = result.get("target", "cpu, onnxruntime").split(", ")
        if not device.startswith(self.kind) or (self.backends and backend not in self.backends):
            return None
        return next((name for name in self.sections if has_run(result.get(name))), None)


def has_run(section: Any) -> bool:
    """Return True if a section of a result holds more than refusals; each scope of an export has its own."""
    if isinstance(section, dict) and section and all(isinstance(part, dict) for part in section.values()):
        return any("refused" not in part for part in section.values())
    return bool(section)


SEARCH, TRAINING, BOTH_ON_GPU = (
    Row("Search on a CPU", "cpu", ("chance", "ablations", "front")),
    Row("Training on a CPU", "cpu", ("step", "trainings")),
    Row("Search and training on a GPU (CUDA)", "cuda", ("steps_per_second",), parts=(10,)),
)
ROWS = (
    Row("Latency tables and predictions, ONNX Runtime on a CPU", "cpu", ("verify",), ("onnxruntime",)),
    Row("Exported networks, ONNX Runtime on a CPU", "cpu", ("outputs", "exports"), ("onnxruntime",)),
    Row("TensorRT-RTX engines, built ahead of time without a GPU", "cpu", ("ahead",)),
    SEARCH,
    TRAINING,
    Row("Latency tables and predictions on a GPU", "cuda", ("verify",), parts=(5, 9)),
    Row("torch as CUDA graphs", "cuda", ("verify", "scopes"), ("torch",), parts=(3,)),
    Row("ONNX Runtime on CUDA", "cuda", ("verify", "scopes"), ("onnxruntime", "onnxruntime-tensorrt")),
    Row("TensorRT engine runner (pycuda), with a mock engine", "cuda", parts=(4,)),
    Row("TensorRT engines", "cuda", ("verify", "scopes"), ("tensorrt",)),
    Row("GPU monitoring (NVML)", "cuda", parts=(1,)),
    BOTH_ON_GPU,
)
PAGES = {
    Path("README.md"): ROWS,
    Path("docs/search.md"): (SEARCH, BOTH_ON_GPU),
    Path("docs/training.md"): (TRAINING, BOTH_ON_GPU),
}
"""Rows of the table on each page."""


def collect_evidence(row: Row, benchmarks: Path) -> list[Evidence]:
    """Return the results for a row, newest first: the newest per file, device and outcome."""
    results = (*_read_benchmarks(row, benchmarks), *_read_checks(row, benchmarks))
    newest = {(item.file, item.device, item.passed): item for item in sorted(results, key=lambda item: item.date)}
    return sorted(newest.values(), key=lambda item: (item.date, item.file), reverse=True)


def _read_benchmarks(row: Row, benchmarks: Path) -> Iterator[Evidence]:
    for path in sorted(benchmarks.glob("*.json")):
        result = json.loads(path.read_text())
        section = row.match_section(result)
        if section is not None:
            made = result.get("made", {}).get(section, result)
            device, title = result["environment"]["device_name"], " ".join(result["name"])
            yield Evidence(device, made["date"], made["commit"], title, path.with_suffix(".md").name)


def _read_checks(row: Row, benchmarks: Path) -> Iterator[Evidence]:
    for path in sorted(benchmarks.glob("gpu-check-*.jsonl")):
        page = path.with_suffix(".md")
        file = page.name if page.exists() else path.name
        for line in path.read_text().splitlines():
            result = json.loads(line)
            if result["part"] in row.parts and result["status"] not in NOT_RUN:
                origin = (result["device_name"], result["date"], result["commit"])
                yield Evidence(*origin, f"GPU check, {result['name']}", file, result["status"] == PASSED)


def block(rows: tuple[Row, ...], benchmarks: Path, folder: str) -> str:
    """Return the table of `rows` between the markers; `folder` is the path from the page to the benchmarks."""
    lines = [BEGIN, "", "| component | tested on | evidence |", "| --- | --- | --- |"]
    for row in rows:
        evidence = collect_evidence(row, benchmarks)
        passed = [item for item in evidence if item.passed]
        failed = [] if passed else evidence
        ran = "; ".join(_newest_by_device(passed)) or NEVER[row.kind]
        if failed:
            ran = f"never passed on a GPU; failed on {'; '.join(_newest_by_device(failed))}"
        links = ", ".join(f"[{item.title}]({folder}/{item.file})" for item in evidence if item.passed or failed)
        lines.append(f"| {row.component} | {ran} | {links or '-'} |")
    return "\n".join([*lines, "", END])


def _newest_by_device(evidence: list[Evidence]) -> list[str]:
    newest = {item.device: item.summary for item in reversed(evidence)}
    return [newest[device] for device in dict.fromkeys(item.device for item in evidence)]


def insert_table(text: str, table: str, page: Path) -> str:
    """Return a page's text with `table` between its markers.

    Raises:
        ValueError: The page has no markers or several.
    """
    parts = re.split(f"{re.escape(BEGIN)}.*?{re.escape(END)}", text, flags=re.DOTALL)
    if len(parts) != 2:
        raise ValueError(f"{page} must have one {BEGIN} with an {END}, got {len(parts) - 1}")
    return table.join(parts)


def render_pages(benchmarks: Path = BENCHMARKS) -> dict[Path, str]:
    """Return the new text of each page, with its table filled from the results in `benchmarks`."""
    texts = {}
    for page, rows in PAGES.items():
        path = ROOT / page
        table = block(rows, benchmarks, BENCHMARKS.relative_to(path.parent).as_posix())
        texts[path] = insert_table(path.read_text(), table, page)
    return texts


if __name__ == "__main__":
    for path, text in render_pages().items():
        path.write_text(text)
