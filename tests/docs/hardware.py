"""Which half of lgc has run on which hardware, from the committed results in docs/benchmarks. `make docs` writes it.

Results are the benchmarks' JSON files, and lines of `gpu-check-*.jsonl`: part, name, status, device_name, date, commit.
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
    """One committed result: of which device, when, and whether it passed."""

    device: str
    date: str
    commit: str
    title: str
    file: str
    passed: bool = True

    @property
    def where(self) -> str:
        return f"{self.device}, {self.date[:10]}, {self.commit}"


@dataclass(frozen=True)
class Row:
    """A part of lgc on one kind of device, and which results are evidence that it has run there.

    Attributes:
        kind: `cpu` or `cuda`.
        sections: keys of a benchmark's JSON object, any of which is evidence.
        backends: backends of the benchmark's target; empty for any.
        parts: numbers of parts of the GPU check.
    """

    subject: str
    kind: str
    sections: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    parts: tuple[int, ...] = ()

    def section_of(self, result: dict[str, Any]) -> str | None:
        """Name of the section of a benchmark's result that is evidence; None if there is none."""
        device, backend, *_ = result.get("target", "cpu, onnxruntime").split(", ")
        if not device.startswith(self.kind) or (self.backends and backend not in self.backends):
            return None
        return next((name for name in self.sections if has_run(result.get(name))), None)


def has_run(section: Any) -> bool:
    """Whether a section of a result holds anything but refusals; each scope of an export refuses on its own."""
    if isinstance(section, dict) and section and all(isinstance(part, dict) for part in section.values()):
        return any("refused" not in part for part in section.values())
    return bool(section)


SEARCH_ROWS = (
    Row("Search and training on a CPU", "cpu", ("chance", "ablations", "front")),
    Row("Search and training on a GPU (CUDA)", "cuda", ("steps_per_second",), parts=(10,)),
)
ROWS = (
    Row("Latency tables and predictions, ONNX Runtime on a CPU", "cpu", ("verify",), ("onnxruntime",)),
    Row("Exported networks, ONNX Runtime on a CPU", "cpu", ("outputs", "exports"), ("onnxruntime",)),
    Row("TensorRT-RTX engines, built ahead of time without a GPU", "cpu", ("ahead",)),
    SEARCH_ROWS[0],
    Row("Latency tables and predictions on a GPU", "cuda", ("verify",), parts=(5, 9)),
    Row("torch as CUDA graphs", "cuda", ("verify", "scopes"), ("torch",), parts=(3,)),
    Row("ONNX Runtime on CUDA", "cuda", ("verify", "scopes"), ("onnxruntime", "onnxruntime-tensorrt")),
    Row("The runner of TensorRT engines (pycuda), with a stand-in for the engine", "cuda", parts=(4,)),
    Row("TensorRT engines", "cuda", ("verify", "scopes"), ("tensorrt",)),
    Row("Watching a GPU (NVML)", "cuda", parts=(1,)),
    SEARCH_ROWS[1],
)
PAGES = {Path("README.md"): ROWS, Path("docs/search.md"): SEARCH_ROWS, Path("docs/training.md"): SEARCH_ROWS}
"""Page -> rows of its table."""


def evidence_of(row: Row, benchmarks: Path) -> list[Evidence]:
    """Results that are evidence of a row, the newest first; of each file and device the newest alone."""
    newest: dict[tuple[str, str, bool], Evidence] = {}
    for one in sorted((*_of_results(row, benchmarks), *_of_checks(row, benchmarks)), key=lambda one: one.date):
        newest[one.file, one.device, one.passed] = one
    return sorted(newest.values(), key=lambda one: (one.date, one.file), reverse=True)


def _of_results(row: Row, benchmarks: Path) -> Iterator[Evidence]:
    for path in sorted(benchmarks.glob("*.json")):
        result = json.loads(path.read_text())
        section = row.section_of(result)
        if section is not None:
            made = result.get("made", {}).get(section, result)
            device, title = result["environment"]["device_name"], " ".join(result["name"])
            yield Evidence(device, made["date"], made["commit"], title, path.with_suffix(".md").name)


def _of_checks(row: Row, benchmarks: Path) -> Iterator[Evidence]:
    for path in sorted(benchmarks.glob("gpu-check-*.jsonl")):
        page = path.with_suffix(".md")
        file = page.name if page.exists() else path.name
        for line in path.read_text().splitlines():
            found = json.loads(line)
            if found["part"] in row.parts and found["status"] not in NOT_RUN:
                where = (found["device_name"], found["date"], found["commit"])
                yield Evidence(*where, f"GPU check, {found['name']}", file, found["status"] == PASSED)


def block(rows: tuple[Row, ...], benchmarks: Path, folder: str) -> str:
    """The table of `rows`, between the markers; links lead to `folder`, where the page finds the benchmarks."""
    lines = [BEGIN, "", "| what | has run on | evidence |", "| --- | --- | --- |"]
    for row in rows:
        evidence = evidence_of(row, benchmarks)
        passed = [one for one in evidence if one.passed]
        failed = [] if passed else evidence
        ran = "; ".join(_newest_by_device(passed)) or NEVER[row.kind]
        if failed:
            ran = f"never passed on a GPU; failed on {'; '.join(_newest_by_device(failed))}"
        links = ", ".join(f"[{one.title}]({folder}/{one.file})" for one in evidence if one.passed or failed)
        lines.append(f"| {row.subject} | {ran} | {links or '-'} |")
    return "\n".join([*lines, "", END])


def _newest_by_device(evidence: list[Evidence]) -> list[str]:
    newest = {one.device: one.where for one in reversed(evidence)}
    return [newest[device] for device in dict.fromkeys(one.device for one in evidence)]


def updated(text: str, table: str, page: Path) -> str:
    """A page's text with `table` between its markers.

    Raises:
        ValueError: the page has no markers, or several.
    """
    parts = re.split(f"{re.escape(BEGIN)}.*?{re.escape(END)}", text, flags=re.DOTALL)
    if len(parts) != 2:
        raise ValueError(f"{page} needs one {BEGIN} with an {END}, it has {len(parts) - 1}")
    return table.join(parts)


def pages(benchmarks: Path = BENCHMARKS) -> dict[Path, str]:
    """Page -> its text with the table from the results in `benchmarks`."""
    texts = {}
    for page, rows in PAGES.items():
        path = ROOT / page
        table = block(rows, benchmarks, BENCHMARKS.relative_to(path.parent).as_posix())
        texts[path] = updated(path.read_text(), table, page)
    return texts


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)
