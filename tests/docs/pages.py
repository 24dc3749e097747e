"""Pages of the documentation, and the code in them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def read_page(name: str) -> str:
    """Return the text of `docs/NAME.md`."""
    return (ROOT / "docs" / f"{name}.md").read_text()


def code_blocks(kind: str, page: str) -> list[str]:
    """Return the code blocks of a page with language `kind`; `""` selects blocks without a language."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [block for language, block in fenced if language == kind]
