"""The headings of docs/guides/troubleshooting.md are messages that the source has."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("schemas", "images", "store", "pipeline", "workers", "cli")
PAGE = (ROOT / "docs" / "guides" / "troubleshooting.md").read_text(encoding="utf-8")
HEADINGS = re.findall(r"^### .*?`(.+)`", PAGE, re.MULTILINE)
# What `…` stands for on the page.
_HOLE = "\0"


@cache
def texts() -> list[str]:
    """Return every text of the source; what is put into it later is a hole."""
    found = []
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(re.sub(r"%(\.\d+)?[a-z]", _HOLE, node.value))
                elif isinstance(node, ast.JoinedStr):
                    found.append(
                        "".join(each.value if isinstance(each, ast.Constant) else _HOLE for each in node.values)
                    )
    return found


@pytest.mark.parametrize(
    "topic",
    [
        *("## GPU and memory", "bar stays at `listing`", "## Nothing or everything is kept", "are `empty`"),
        *("endpoint_url", "access is denied", "SlowDown", "requires a token", "TMPDIR", "Ask for access", "a proxy"),
        *("mirror", "`licence`", "a benchmark tests on them", "## macOS"),
    ],
)
def test_the_page_answers_what_people_ask(topic):
    assert topic in PAGE


@pytest.mark.parametrize("heading", HEADINGS)
def test_a_heading_is_a_message_of_the_source(heading):
    if " " not in heading:
        assert heading in texts()  # a word is anywhere: it must be the whole text
        return
    words = ".*".join(re.escape(each.strip()) for each in heading.split("…"))
    assert any(re.search(words, text) for text in texts()), f"no message of the source has the words {heading!r}"
