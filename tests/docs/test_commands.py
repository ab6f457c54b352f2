"""A command that a page shows is one that there is: its name, its options and its settings."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from pseudoris.cli.main import app
from pseudoris.schemas.config_layers import settings

ROOT = Path(__file__).parents[2]
# The reference is generated from the commands themselves.
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "examples/README.md", "docs/index.md")),
    *(page for door in ("start", "guides", "records") for page in sorted((ROOT / "docs" / door).rglob("*.md"))),
]
FENCE = re.compile(r"^( *)```(\w*).*?\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
# Whole commands only: what a placeholder such as `[OPTIONS]` stands in is the reference's.
INLINE = re.compile(r"`(pseudoris [a-z][^`\[]*)`")
LINE = re.compile(r"(?:^|\bpython -m |&& |-- )pseudoris ([a-z].*)$", re.MULTILINE)
KEYS = {each.key for each in settings()}
# Their `--set` takes other trees of settings.
OTHER_TREES = ("train", "ppt", "evaluate")


def commands(page: Path) -> set[str]:
    text = page.read_text(encoding="utf-8")
    fences = [code.replace("\\\n", " ") for _, language, code in FENCE.findall(text) if language in ("", "bash", "sh")]
    shown = [each for code in fences for each in LINE.findall(code)]
    inline = [" ".join(each.split()).removeprefix("pseudoris ") for each in INLINE.findall(FENCE.sub("", text))]
    return {each for each in (*shown, *inline) if "…" not in each}


SHOWN = sorted({(page.relative_to(ROOT).as_posix(), each) for page in PAGES for each in commands(page)})


def is_key(name: str) -> bool:
    """Whether a setting has the name. Options of engines are keys of their own."""
    return name in KEYS or name.startswith(("masks.options.", "captions.options."))


def words(command: str) -> list[str]:
    parts = shlex.shlex(command, posix=True, punctuation_chars="|>&;")
    parts.whitespace_split = True
    found = []
    for each in parts:
        if set(each) <= set("|>&;"):
            break
        found.append(each)
    return found


@pytest.mark.parametrize(("page", "shown"), SHOWN)
def test_a_command_of_a_page_has_the_options_that_it_shows(page, shown):
    node: Any = typer.main.get_command(app)
    rest = words(shown)
    path = []
    while hasattr(node, "commands") and rest:
        if rest[0].startswith("-"):
            return
        assert rest[0] in node.commands, f"{page}: no command {rest[0]!r}"
        path.append(rest[0])
        node, rest = node.commands[rest[0]], rest[1:]
    # Raises at an option that it does not take.
    given, places, _ = node.make_parser(node.context_class(node)).parse_args([*rest])
    taken = [each.nargs for each in node.params if each.param_type_name == "argument"]
    assert len(places) <= sum(taken) or -1 in taken
    if path[0] not in OTHER_TREES:
        keys = {each.partition("=")[0] for each in given.get("assignments", ()) if not each.startswith("$")}
        assert {each for each in keys if not is_key(each)} == set()


def test_the_pages_show_most_commands():
    named = {shown.split()[0] for _, shown in SHOWN}
    assert len(SHOWN) > 150
    assert {"annotate", "combine", "tile", "export", "audit", "refilter", "train"} <= named
