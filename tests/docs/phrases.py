"""Banned phrases and names with their replacements; `tests/docs/test_phrases.py` and `tests/bench/house.py` use them.

A phrase is a case-insensitive regular expression over prose: strings and comments of modules, text of Markdown pages.
Code in backticks or fences, URLs, SQL and bare identifiers are not prose.
"""

from __future__ import annotations

import ast
import io
import os
import re
import tokenize
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

SKIPPED = {"tests", "build", "dist"}
"""Folders of a checkout that hold no sources, besides hidden ones."""

METAPHORS = {
    r"contests?": "comparison",
    r"entrants?": "candidate",
    r"drafts?": "temporary file",
    r"journals?": "metrics log",
    r"passages?": "baseline graph",
    r"visit(s|ed|ing)?": "sample batch; to measure",
    r"subjects?(?! to)": "benchmark",
    r"rulers?": "measuring statistic",
    r"landings?|lands|landed|and land": "refinement; reach, meet the target",
    r"fleets?": "several devices",
    r"companies|company": "filler benchmarks",
    r"verdicts?": "stopping decision, pass or fail",
    r"judged (on|by|again)|may be judged|no judges": "evaluated, scored",
    r"(of|keep|keeps|its|different|or) hours?": "the machine's drift",
    r"on (its|their) way": "in progress; state",
    r"has the (last )?word|have the (last )?word|knows best": "wins; the smallest confidence interval wins",
    r"boils? .{0,40}down": "reduce, aggregate",
    r"deaf to": "robust to",
    r"to and fro": "back and forth",
    r"speaks? (for|of)": "represents, describes",
    r"lean on": "prefer",
    r"dear(er|est)": "more expensive, most expensive",
    r"likes? best": "most probable",
    r"lets? \S+ go": "shut down, release",
    r"by the thousand": "in bulk, vectorised",
}
RELATIVES = {
    r"is what": "name the thing with a noun",
    r"what (could|cannot|must|may)": "name the thing with a noun",
    r"what is (left|wanted|sought|known|timed|not|said|missing|there|to)": "name the thing with a noun",
    r"what (it|they|each|tables|a table) (is|are) worth": "accuracy",
    r"whatever becomes of|what (becomes|comes) of|becomes of them|comes of (it|them)": "result; regardless of",
    r"what a reader (has|must) (to )?know": "notes",
    r"as (it|they) (is|are|was|were) told": "as specified",
    r"as \S+ (has|have) it": "as in X, following X",
    r"how (it|they) (is|are) called|what they are called": "name",
    r"how far (it|every part|this process) (is|are)(?! (from|in)\b)": "progress",
    r"all that (is|are|was|were|must|decides|has|it|a|takes)": "everything that",
    r"(nothing|anything|everything) but": "only; except; not",
    r"nothing of (it|this|ours|what|a|the)": "none of",
    r"(somebody|anybody|nobody|whoever)": "passive voice, or name the caller or user",
    r"(devices|names|ones|splits|cores) there (is|are)": "available ...",
    r"the own": "its own; the default",
    r"else than": "other than",
    r"another than": "different from",
    r"(is|are|be|was) of (another|one|static|no (known )?layout|space|schema|that form)": "has, belongs to, differs",
    r"of another (device|version|build|shape|size|schema|space|type|number|table|scope|target)": "different",
    r"of (it|them) (is|are) none": "drop the clause",
}
VERBS = {
    r"(goes|going|gone|went|go) on": "resume, continue",
    r"begin nothing|nothing is begun|is begun": "do not start; time limit",
    r"anew": "again; re-measure, rebuild, retrain",
    r"hand(s|ed)? over": "pass",
    r"by (the )?\w+'s hand|by hand of": "by",
    r"(is|are|be|was|were) passed over": "is skipped, is ignored",
    r"(makes?|gives?) way": "is replaced, is overwritten",
    r"(is|are|was|were|could be|can be|cannot be|be) had": "is available; was obtained",
    r"(is|was|were) come by": "was obtained",
    r"(hold|holds|held|holding)( \S+){0,5} against": "compare with",
    r"(?-i:Show) that|after showing|shown to": "check that, validate",
    r"takes? (\w+ ){0,2}up again": "restore",
    r"(takes? on|taken on|took on) (so|subjects|and|what|a share)|had taken on": "claim",
    r"brought onto|brings? \w+ onto|bring .{0,20} onto|bringing .{0,20} onto": "project onto",
    r"(written|writes?|takes?|taken|put) (\w+ )?down": "record",
    r"break(s|ing)? off|broken off": "is truncated, aborts",
    r"(came|comes?) out(?! of the box)": "results; is produced",
    r"take (--\w+|fp32|bf16|another|onnxruntime|a (space|smaller|new)|communication)": "use",
    r"takes its (ranges|default)": "gets",
    r"(?<=[:;,] )name (another|one|some|a|an|the|its)|or name": "pass, choose, give",
    r"found out": "detected",
    r"(do|does) no harm": "is idempotent; is harmless",
    r"takes? no heed|no heed": "ignores",
    r"memory end(s|ed)": "runs out",
    r"the loss gains": "is added to the loss",
    r"which so": "so",
    r"stopped being a number|(is|are) no numbers?( any more)?": "is NaN or infinite",
    r"sought|seeks?": "wanted; look for",
    r"(is|are|was) wanted|time wanted": "is needed, is requested",
    r"(TensorRT|ONNX|Runtime|capture|that|it|each) wants?": "requires",
    r"(kept|keep|keeps) (this process|to (its|them|as many))": "pin",
    r"lies? (elsewhere|there|beside|on (the )?dis[ck])": "is stored",
    r"served": "supported",
    r"mend(s|ed)?": "fix",
    r"asked (of|by)": "requested from",
    r"(is|are) to (be|have|stay|hold|serve|come|run|replace|travel|change|starve|measure|tell|rise)": "must, will",
    r"recalled of": "recalled from",
}
TELLING = {
    r"told": "called with, reported, specified",
    r"tells? (\w+ ){0,3}apart": "distinguishes",
    r"(does not|do not|cannot|can not) (be )?tell": "does not report, cannot report",
    r"tells? (nothing|no|its|that|of|which|what|one|how)": "reports, states",
    r"(says?|said) (nothing )?of": "about",
    r"(know|known|knows) of|is to know": "about; note",
    r"known (to \{|well enough|better|least)|well enough": "precise enough; relative confidence interval",
    r"not as well as asked": "less precisely than requested",
    r"in (its|their|our) (own )?words|own words|'s words|in words|what words": "error message; as text",
    r"remarked on|is remarked": "warned about, noted",
    r"objects to": "rejects",
}
NEGATIONS = {
    r"(?<!there )(is|are|was|were|makes?|says) no (?!longer|more|less|better|worse|slower|such|reason|sense)\w+": (
        "is not a ..., is invalid"
    ),
    r"(?<!there )(is|are|was|were) (?-i:none)(?! of\b)": "is not one, is invalid, is missing",
    r"of no (use|matter|class|known)|of use|no use": "useless, unusable, irrelevant",
    r"any more": "no longer",
    r"need (not )?be (multiples|there)|multiples of (nothing|1)": "any size; need not exist",
    r"which there never was": "unknown",
    r"cannot be (told|one)|not to be told|not be told": "indistinguishable; cannot be merged",
}
PARTICLES = {
    r"beside": "next to, with, alongside",
    r"besides(?=[.,;:])": "also, in addition",
    r"((?<=[,:;] )|(?<=\())say(?! (how|so|what|which|that|it|why)\b)|say(?= `)": "e.g.",
    r"so (many|often|long|much)(?! that\b)": "`repeats` times; the given number",
    r"likewise": "same for ...",
    r"alike": "equally, the same",
    r"apart by": "separated by",
    r"(measured|keep them|kept|keep|listed) apart": "separately",
    r"as far as": "where, if; up to",
    r"all the same(?! (size|length|type|shape|value)\b)": "anyway",
    r"one and the same": "the same",
    r"at hand": "given, current",
    r"for people|people (see|read)|shows? people": "human-readable",
    r"(exists?|there|quantised|known|seen|holds \w+|has \w+) already": "already + verb: already exists",
    r"(?<!whether )(?<!if )(is|are|was|be|were) (not )?there(?! (a|an|any|no|is|are|was)\b)": "exists, is available",
    r"there (is|are)(?=:)": "available: ...",
    r"(run|runs|be used|usable|built|builds|installed|present|cores|GPU|CUDA|build it|build this|TensorRT) here": (
        "on this machine"
    ),
    r"(?<=, )here (is|are)": "this machine has",
    r"(the|its|of|whose|their) least(?! (squares?|significant|recently|common)\b)|(?<!at )least run": (
        "smallest, lowest, shortest"
    ),
    r"greatest": "largest, maximum",
    r"\d+%? at (least|most)(?! \d)|it at least": "at least N, at most N",
    r"if (it is )?left out": "by default; [default: ...]",
    r"(several times|several) for": "repeatable",
    r"may be repeated": "repeatable",
    r"(frames|images|photos|bits|runs?|channel|weights?|operator|target|digit|addition|point|row|line|layer) an? "
    r"(second|channel|class|table|node|edge|point|visit|device|process|line|pixel|graph|network|precision)": "per",
    r"to the (same )?bits?\b": "bit-identical",
    r"stands? alone": "self-contained; standalone",
    r"the very|this very": "the same, exactly the",
    r"ways? (from|to) the (host|device)|ways in and out|way in(to)? a graph|there and back": "copies, transfers",
    r"(reach of|they reach from|space reaches)": "range",
    r"digits that change with": "fingerprint, hash of",
    r"from \S*\d\S* on(?! \w)|from (the )?\S+ one on|steps? on(?=,)": "from ... onwards",
    r"entries that weigh|all weigh|and weigh": "that matter, that are significant",
    r"one (step|swap) more": "another",
    r"of our own|of its like|from its like": "custom; similar ones",
    r"such (arrays|a table has)": "invalid arrays: ...",
    r"for its own sake": "by itself",
}
THEMES = (METAPHORS, RELATIVES, VERBS, TELLING, NEGATIONS, PARTICLES)
PHRASES = tuple(
    (re.compile(rf"(?<!\w)(?:{pattern})(?!\w)", re.IGNORECASE), instead)
    for theme in THEMES
    for pattern, instead in theme.items()
)
OPENING = re.compile(r"(whether|what|how|of|why|which|when|told|as|those|that|nothing|whose|likewise)\b", re.IGNORECASE)
"""First words that no docstring and no help text may have."""
MESSAGE_OPENING = re.compile(r"(whether|what|how)\b", re.IGNORECASE)
"""First words that no message may have."""
FIELD = re.compile(r"^ +\w+: (told|what|how many|how much|of the|of a|of its|of all|as for|as it|as they|likewise)\b")
"""First words that no entry under Args or Attributes may have."""
OPENING_INSTEAD = "imperative verb or noun first"

NAMES = (
    (
        re.compile(r"found|told|here|there|beside|one|mine|theirs|picked"),
        "a noun for the value: report, result, row, index",
    ),
    (re.compile(r"\w+_of"), "verb_noun(), or noun"),
    (re.compile(r"(MOST|LEAST)(_\w+)?"), "MAX_*, MIN_*"),
    (re.compile(r"LOOK_EVERY|FEW|ENOUGH|FAR|WEIGHTY|ALIKE"), "LOG_EVERY, MAX_*, MIN_*, a noun"),
    (re.compile(r"Entrant|Found|Draw|Placed|CudaPlace|Health|Verdict|Pace|Landing"), "the glossary's class name"),
    (re.compile(r"Agreement|Limit"), "Parity, Tolerance"),
    (
        re.compile(r"verdicts?|visits?|subjects?|contest|entrants?|paces?|passages?"),
        "benchmark, sample batch, candidate",
    ),
    (re.compile(r"\w+_(verdicts?|visits?|subjects?|entrants?|places?)"), "benchmark, sample batch, candidate"),
    (re.compile(r"ceiling_\w+"), "split_half_*"),
)
"""Names that nothing may be bound to (whole name): variables, parameters, functions, classes."""
ALIASES = {"ceiling_mape_pct", "ceiling_kendall_tau", "visits"}
"""Old names that table files and JSON keep for one release."""
MODULES = {
    "contest": "comparison",
    "drafts": "files",
    "reach": "feasibility",
    "guide": "communication",
    "fitting": "projection",
    "landing": "refinement",
    "choosing": "finalize",
    "trainer": "supernet_trainer",
    "descent": "training_loop",
    "fleet": "multi_device",
    "filling": "worker",
    "failure": "error_translation",
    "eager": "backend",
    "agreement": "parity",
    "watch": "monitor",
    "journal": "metrics_log",
    "runs": "run_folder",
    "job": "context",
}
"""Names of modules that say nothing to a newcomer -> better ones."""

SQL = re.compile(
    r"\s*(SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER|DROP|WHERE|LEFT|PRAGMA|BEGIN)\b|.*\b(ORDER BY|FROM|WHERE) "
)
COLUMNS = re.compile(r"\s*[\w.{}/:-]*(,\s*[\w.{}]+)*\s*$")
"""A bare identifier, or names of columns."""
Finding = tuple[int, str, str]
"""Line, phrase, what to write instead."""


def python_files(root: Path) -> list[Path]:
    """Return the source modules of a checkout, without its tests."""
    paths = []
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in SKIPPED and not name.startswith("."))
        paths += [Path(folder) / name for name in sorted(files) if name.endswith(".py")]
    return paths


def prose_files(root: Path) -> list[Path]:
    """Return the source modules and the pages of a checkout: README, CHANGELOG, other top pages, docs/*.md."""
    return [*python_files(root), *sorted(root.glob("*.md")), *sorted((root / "docs").glob("*.md"))]


def banned(path: Path) -> list[Finding]:
    """Return every banned phrase and name in a module or a Markdown page, by line."""
    if path.suffix != ".py":
        return sorted({finding for line, text in _paragraphs(path.read_text()) for finding in _phrases(text, line)})
    source = path.read_text()
    tree = ast.parse(source)
    findings = set(_names(tree))
    if path.stem in MODULES:
        findings.add((1, f"module {path.stem}", MODULES[path.stem]))
    for node, text, kind in _strings(tree):
        for line, phrase, instead in _text_findings(text, node.lineno, kind):
            lines = source.splitlines()[node.lineno - 1 : node.end_lineno]
            inside = [node.lineno + offset for offset, content in enumerate(lines) if phrase.split("\n")[0] in content]
            findings.add((line if line in inside or not inside else inside[0], phrase, instead))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            findings |= set(_phrases(token.string.lstrip("# "), token.start[0]))
    return sorted(findings)


def _text_findings(text: str, line: int, kind: str) -> Iterator[Finding]:
    opening = (MESSAGE_OPENING if kind == "message" else OPENING).match(text)
    if opening and len(text.split()) > 2:
        yield line, f"{opening[0]} ...", OPENING_INSTEAD
    if kind == "docstring":
        for offset, content in enumerate(text.splitlines()):
            if entry := FIELD.match(content):
                yield line + offset, entry[0].strip(), "noun first"
    yield from _phrases(text, line)


def _phrases(text: str, line: int) -> Iterator[Finding]:
    """Search prose whose first line is `line`; a phrase may go over a line's end."""
    words, starts, lines = [], [], []
    length = 0
    for offset, content in enumerate(_without_code(text).split("\n")):
        for word in content.split() or ["\n"]:
            words.append(word)
            starts.append(length)
            lines.append(line + offset)
            length += len(word) + 1
    prose = " ".join(words)
    end = 0
    for start, last, instead in sorted(_spans(prose)):
        if last > end:  # else it is a part of the phrase before
            yield lines[bisect_right(starts, start) - 1], prose[start:last], instead
            end = last


def _spans(prose: str) -> Iterator[tuple[int, int, str]]:
    """Yield start, end and replacement of every phrase."""
    for pattern, instead in PHRASES:
        yield from ((match.start(), match.end(), instead) for match in pattern.finditer(prose))


def _without_code(text: str) -> str:
    """Replace code in backticks and URLs by as many x."""
    return re.sub(r"(?<=`)[^`\n]+(?=`)|https?://\S+", lambda code: "x" * len(code[0]), text)


def _paragraphs(page: str) -> Iterator[tuple[int, str]]:
    """Yield the paragraphs of a Markdown page with their first lines; fenced code is left out."""
    page = re.sub(r"^```.*?^```$", lambda code: "\n" * code[0].count("\n"), page, flags=re.M | re.S)
    line = 1
    for paragraph in re.split(r"(\n\s*\n|\n(?=[-|#]))", page):
        yield line, paragraph
        line += paragraph.count("\n")


def _strings(tree: ast.Module) -> Iterator[tuple[ast.expr, str, str]]:
    """Yield each string that is prose: its node, its text with {} for values, its kind (docstring, help, message)."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    helps = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg in {"help", "description"}
    }
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if id(node) in inner:
            continue
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        else:
            continue
        if not SQL.match(text) and not COLUMNS.match(text):
            yield node, text, "docstring" if id(node) in docstrings else "help" if id(node) in helps else "message"


def _names(tree: ast.Module) -> Iterator[Finding]:
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                pass
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                pass
            case _:
                continue
        for pattern, instead in NAMES:
            if pattern.fullmatch(name.lstrip("_")) and name not in ALIASES:
                yield node.lineno, f"name {name}", instead
