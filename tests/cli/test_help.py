"""What `--help` shows: the whole tool on one screen, every text whole, and choices that a shell can complete."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from pseudoris.cli.export import ExportFormat
from pseudoris.cli.main import app
from pseudoris.interchange.exports import EXPORTS
from tests.builders.wheel import ROOMS, ROOT

GROUPS = ["Start", "Run", "Look", "Data", "Learn"]


def shown(*words: str, columns: int = 100, exit_code: int = 0, **environment: str) -> str:
    """What the command prints on a terminal of so many columns."""
    ended = CliRunner().invoke(app, words, prog_name="pseudoris", env={"COLUMNS": str(columns), **environment})
    assert ended.exit_code == exit_code, ended.output
    return ended.output


def commands(command=None, path=()):
    """Every command and group below the root, by its words."""
    for name, each in (command or typer.main.get_command(app)).commands.items():
        yield (*path, name), each
        if hasattr(each, "commands"):
            yield from commands(each, (*path, name))


COMMANDS = dict(commands())


@pytest.mark.slow
def test_help_shows_everything_on_a_screen_of_100_by_30():
    # As a user meets it; the other pages are asked for in this process, which saves seconds each.
    words = [sys.executable, "-X", "importtime", "-m", "pseudoris", "--help"]
    ended = subprocess.run(words, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "100"})
    loaded = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert "pyarrow" in loaded
    assert not loaded & {"ray", "torch", "pandas"}
    lines = ended.stdout.splitlines()
    # The prompt below it takes the last line.
    assert len(lines) < 30
    assert max(map(len, lines)) <= 100
    assert [word for line in lines if (word := line.partition(" ")[0]) in GROUPS] == GROUPS
    page = "\n".join(lines)
    for path, command in COMMANDS.items():
        if len(path) == 1:
            summary = command.help.partition("\n")[0]
            assert re.search(rf"^(\w+)? +{path[0]} +{re.escape(summary)} *$", page, re.MULTILINE), path
    assert all(re.search(rf"\b{code} ", page) for code in (0, 1, 2, 3, 130))
    assert all(option in page for option in ("--version", "--install-completion", "--show-completion", "--help"))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_no_help_loses_a_word_to_markup(path):
    def bare(text: str) -> str:
        return re.sub(r"[\s│╭╮╰╯─]", "", text)

    command = COMMANDS[path]
    page = bare(shown(*path, "--help", columns=1_000))
    texts = [
        command.help,
        command.epilog,
        *(getattr(each, "help", None) for each in command.params if not getattr(each, "hidden", False)),
    ]
    texts += [each.help.partition("\n\n")[0] for each in getattr(command, "commands", {}).values()]
    for text in filter(None, texts):
        assert bare(text.replace("\\[", "[")) in page, text


def test_export_names_each_format_on_a_line_of_its_own():
    assert [each.value for each in ExportFormat] == list(EXPORTS)
    page = shown("export", "--help")
    for name, export in EXPORTS.items():
        assert re.search(rf"^ +{name} +{re.escape(export.summary)} *$", page, re.MULTILINE), name


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("pseudoris ", ["annotate", "export", "train"]),
        ("pseudoris ann", ["annotate"]),
        ("pseudoris export out to --format ", list(EXPORTS)),
        ("pseudoris ppt ", ["objects", "compose", "pairs"]),
    ],
)
def test_a_shell_completes_commands_and_choices(typed, offered):
    words = typed.split(" ")
    found = shown(_PSEUDORIS_COMPLETE="complete_bash", COMP_WORDS=typed, COMP_CWORD=str(len(words) - 1)).split()
    assert set(offered) <= set(found)
    assert len(found) == len(offered) or typed == "pseudoris "


def test_in_a_clone_a_bare_name_is_no_second_copy_of_ours():
    code = (
        "import importlib, sys\n"
        "for room in sys.argv[1:]:\n"
        "    try:\n"
        "        importlib.import_module(room)\n"
        "    except ImportError as error:\n"
        "        print(error)\n"
    )
    words = [sys.executable, "-c", code, *ROOMS]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.stderr == ""
    assert ended.stdout.splitlines() == [
        f"{room!r} is not a package of its own: import pseudoris.{room}" for room in ROOMS
    ]


@pytest.mark.parametrize(
    "path", [path for path, each in COMMANDS.items() if not hasattr(each, "commands")], ids=" ".join
)
def test_the_help_of_a_command_ends_with_an_example_that_it_takes(path):
    command = COMMANDS[path]
    last = command.epilog.splitlines()[-1].strip()
    words = shlex.split(last.removeprefix("Example: "))

    assert shown(*path, "--help", columns=1_000).rstrip().endswith(last)
    assert tuple(words[: len(path) + 1]) == ("pseudoris", *path)
    assert command.make_context(path[-1], words[len(path) + 1 :]).command is command
