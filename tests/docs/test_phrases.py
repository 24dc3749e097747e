"""Texts and names contain no phrase or name of `phrases.py`."""

from pathlib import Path

import pytest

from . import phrases

ROOT = Path(__file__).resolve().parents[2]
FILES = {str(path.relative_to(ROOT)): path for path in phrases.prose_files(ROOT)}


@pytest.fixture
def banned_in(tmp_path):
    """Return a function that lists the banned phrases of a text."""

    def banned(text: str, name: str = "module.py") -> list[str]:
        path = tmp_path / name
        path.write_text(text)
        return [phrase for _, phrase, _ in phrases.banned(path)]

    return banned


@pytest.mark.parametrize("name", FILES)
def test_no_banned_phrase_or_name(name):
    lines = [f"{name}:{line}: {phrase!r}; write: {instead}" for line, phrase, instead in phrases.banned(FILES[name])]
    assert not lines, "\n".join(lines)


def test_every_source_and_page_is_checked():
    assert {
        "README.md",
        "CHANGELOG.md",
        "docs/measuring.md",
        "errors.py",
        "lut/table/table.py",
        "tools/search.py",
    } <= set(FILES)
    assert not [name for name in FILES if name.startswith("tests/")]


@pytest.mark.parametrize(
    "text",
    [
        "An interrupted call is gone on with by the same call.",
        "Of everything random.",
        "Of the networks and the visiting order.",
        "Begin nothing after this time, say 90s or 4m.",
        "One network; what could not be had is None.",
        "Whether the loss has a latency term.",
        "Where tables differ, the one that knows best has the word.",
        "It is not to be told from nothing.",
        "The file is no latency table but nothing: there is no such file",
        "Queue `launch` so often back to back.",
        "They keep the speed of its hour.",
        "The last step lands once more.",
        "What an engine is built for.",
        "A phrase is gone on\n    with over the end of a line.",
        "A value.\n\n    Args:\n        seed: of the visiting order.",
    ],
)
def test_banned_phrases_are_reported(text, banned_in):
    assert banned_in(f'"""{text}"""\n')
    assert banned_in(f'option = Option(help="""{text}""")\n')


@pytest.mark.parametrize(
    "source",
    [
        '"""Return the latency of `spec` in milliseconds; there is no entry for a free operator."""\n',
        '"""Read the rows `visits` and `subjects`, e.g. of one session."""\n',
        'rows = table.execute("SELECT subject, visits FROM subjects WHERE kind = ?")\n',
        'COLUMNS = "subject, session, visits"\n',
        '"""None where unavailable. The loss is no longer finite."""\n',
        "# see https://example.org/visits\nnumber = 1\n",
    ],
)
def test_plain_sentences_and_code_pass(source, banned_in):
    assert not banned_in(source)


def test_comments_messages_and_names_are_checked(banned_in):
    source = 'found = 1  # of no use\nraise ValueError(f"{path} is no model but {kind}: name "\n    "another")\n'
    assert banned_in(source) == ["name found", "of no use", "is no model", "name another"]


def test_fenced_code_of_pages_is_skipped(banned_in):
    page = "Text.\n\n```\nlgc --visit beside\n```\n\nIt lies `beside`\nit, beside\nthem.\n"
    assert banned_in(page, "page.md") == ["beside"]


def test_findings_have_their_line(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("# Title\n\nFirst line.\nIt is gone\non with.\n\n| a |\n| beside |\n")
    assert [(line, phrase) for line, phrase, _ in phrases.banned(path)] == [(4, "gone on"), (8, "beside")]
