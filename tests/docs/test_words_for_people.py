"""Every word for people in README and docs is classed: real ones, or the simulated annotators of synthetic scenes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIST = Path(__file__).with_suffix(".tsv")
_WORD = re.compile(r"people|person|human|annotator", re.IGNORECASE)
# Words alone, so that new figures and new line breaks change nothing.
_TOKEN = re.compile(r"\w*[^\W\d]\w*(?:['’-]\w+)*")
# A paragraph, an item of a list or a row of a table.
_BLOCK = re.compile(r"\n\s*\n|\n(?=\s*(?:[|#<]|[-*] |\d+\. ))")
# Generated from signatures and options: they name arguments, and state no figure.
_OF_CODE = {"docs/reference/api.md", "docs/reference/cli.md"}
# Words of its block on each side.
_CONTEXT = 3
_CLASSES = {"real", "simulated", "other"}
_HOW = f"""
Change {LIST.relative_to(ROOT)}: a line is a class, a file and the words around the hit, parted by tabs.
real: people who use, read, judge, write or annotate, and what they made (audits, --human, RefCOCO).
simulated: masks of the renderer and texts of the generator. The words around it must say "simulated".
other: a word of a caption, a category or a name.
"""


def hits(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield file and phrase of each word for people, as `grep -riE` finds them in README.md and docs."""
    for path in [folder / "README.md", *sorted((folder / "docs").rglob("*"))]:
        if not path.is_file() or path.relative_to(folder).as_posix() in _OF_CODE:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for block in _BLOCK.split(text):
            words = _TOKEN.findall(block)
            for at, word in enumerate(words):
                if _WORD.search(word):
                    near = words[max(0, at - _CONTEXT) : at + _CONTEXT + 1]
                    yield path.relative_to(folder).as_posix(), " ".join(near)


def faults(found: set[tuple[str, str]], classed: list[str]) -> list[str]:
    """Return what is wrong between the hits and the lines of the list, each as a line to add, to delete or to mend."""
    rows = [line.split("\t") for line in classed]
    known = {(row[1], row[2]) for row in rows if len(row) == 3}
    lines = [f"add, with its class:\tCLASS\t{file}\t{phrase}" for file, phrase in sorted(found - known)]
    for line, row in zip(classed, rows, strict=True):
        if len(row) != 3 or row[0] not in _CLASSES:
            lines.append(f"no class, file and phrase:\t{line}")
        elif (row[1], row[2]) not in found:
            lines.append(f"delete, it is not there:\t{line}")
        elif row[0] == "simulated" and "simulated" not in row[2].lower():
            lines.append(f'say "simulated" beside it in the file:\t{line}')
    return lines


def test_every_word_for_people_is_classed_and_simulated_ones_say_so():
    classed = LIST.read_text(encoding="utf-8").splitlines()
    assert len(classed) == len({line.split("\t", 1)[1] for line in classed}), "a phrase stands twice in the list"
    found = faults(set(hits(ROOT)), classed)
    assert not found, "\n".join([*found, _HOW])
    (unsaid,) = faults({("README.md", "people's masks")}, ["simulated\tREADME.md\tpeople's masks"])
    assert unsaid.startswith('say "simulated"')
