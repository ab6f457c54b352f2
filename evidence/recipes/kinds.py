"""Makes the table of kinds, `primitives/kinds.tsv`: `python -m evidence.recipes.kinds [WORDNET_FOLDER] [--out FILE]`.

It reads the plain files of WordNet 3.0 (Debian's package `wordnet-base` 1:3.0-37 has them in /usr/share/wordnet), and
`kinds.yaml` beside this module: which nouns, and what WordNet lacks or has another way. A noun gets one sense, the most
frequent one in the lexicographer file under which `kinds.yaml` lists it. Nouns of one sense are synonyms. The wider
names of a noun are the nearest listed ones above its sense, so that what only WordNet says ("instrumentality") is left
out. A compound that WordNet lacks is a kind of its last word. Equal input makes equal bytes.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Final

import typer
import yaml

from pseudoris.primitives.english import FIXED_COMPOUNDS, plural_of

BY_HAND: Final = Path(__file__).with_suffix(".yaml")
TABLE: Final = Path(__file__).parents[2] / "primitives" / "kinds.tsv"
# Another release has other senses and other bytes.
DIGESTS: Final[Mapping[str, str]] = {
    "data.noun": "fea17d2f9656611334eac790e5d69e47645fa180c4aa481fb4cd9b3520754ca2",
    "index.noun": "a490d99d93d017bf4822fe2f0ffa51fd73911ce271dc7535fade21f8814b5a04",
    "noun.exc": "2b5d675c380b39ecf595af9fa9d4e7feb1d58c643b0bff08c40ed5bfe41fab7a",
}
# Numbers of the lexicographer files (lexnames(5WN)) whose senses a photograph shows.
_FILES: Final = {"animal": 5, "artifact": 6, "body": 8, "food": 13, "object": 17, "person": 18, "plant": 20}
# The file of the widest senses, such as that of "animal".
_TOPS: Final = 3
_HEADER: Final = (
    "# Made by `python -m evidence.recipes.kinds` from WordNet 3.0 (kinds.LICENSE.txt) and rows by hand.\n"
    "name\tsame_as\twider\tmark\tplurals\n"
)


@dataclass(frozen=True, slots=True)
class WordNet:
    """The nouns of WordNet.

    Attributes:
        synsets: By offset, the lexicographer file, the words, and the offsets of the direct hypernyms.
        senses: By word, the offsets of its synsets, the most frequent sense first.
        plurals: By word, its irregular plurals.
    """

    synsets: Mapping[str, tuple[int, tuple[str, ...], tuple[str, ...]]]
    senses: Mapping[str, tuple[str, ...]]
    plurals: Mapping[str, tuple[str, ...]]

    def sense(self, name: str, file: str) -> str | None:
        """Return the most frequent sense of a name in a lexicographer file; None without one."""
        found = [
            offset
            for of in (_FILES[file], _TOPS)
            for offset in self.senses.get(name, ())
            if self.synsets[offset][0] == of
        ]
        return found[0] if found else None


def read_wordnet(folder: Path) -> WordNet:
    """Read the files of `DIGESTS`.

    Raises:
        ValueError: A file is absent, or is not that of the release.
    """
    texts = {}
    for name, digest in DIGESTS.items():
        data = (folder / name).read_bytes() if (folder / name).is_file() else b""
        if (found := hashlib.sha256(data).hexdigest()) != digest:
            what = f"has the sha256 {found}" if data else "is absent or empty"
            raise ValueError(f"{folder / name} {what}, not {digest} of WordNet 3.0: install Debian's wordnet-base")
        texts[name] = data.decode()
    synsets, senses, plurals = {}, {}, defaultdict(list)
    for line in _records(texts["data.noun"]):
        fields = line.partition(" | ")[0].split()
        num_words = int(fields[3], 16)
        pointers = fields[5 + 2 * num_words :]
        above = tuple(offset for sign, offset in zip(pointers[::4], pointers[1::4], strict=False) if sign == "@")
        synsets[fields[0]] = (int(fields[1]), tuple(map(_spaced, fields[4 : 4 + 2 * num_words : 2])), above)
    for line in _records(texts["index.noun"]):
        fields = line.split()
        senses[_spaced(fields[0])] = tuple(fields[-int(fields[2]) :])
    for line in texts["noun.exc"].splitlines():
        plural, *singulars = map(_spaced, line.split())
        for singular in singulars:
            plurals[singular].append(plural)
    return WordNet(synsets, senses, {name: tuple(sorted(each)) for name, each in plurals.items()})


def _records(text: str) -> Iterator[str]:
    """Yield the lines of a file after its licence, whose lines begin with a space."""
    return (line for line in text.splitlines() if not line.startswith(" "))


def _spaced(word: str) -> str:
    return word.replace("_", " ").lower()


@dataclass(frozen=True)
class ByHand:
    """The content of `kinds.yaml`, which says what each key is for."""

    names: Mapping[str, str]  # the lexicographer file of each name; "" for those that no file has
    same: Mapping[str, str]
    wider: Mapping[str, tuple[str, ...]]
    fixed: Set[str]
    marks: Mapping[str, str]


def read_by_hand(path: Path = BY_HAND) -> ByHand:
    """Read `kinds.yaml`.

    Raises:
        ValueError: A name is listed twice, or has two marks.
    """
    tree = yaml.safe_load(path.read_text())
    listed = [
        (_spaced(name), file)
        for file, topics in tree["names"].items()
        for text in topics.values()
        for name in text.split()
    ]
    same = {_spaced(name): _spaced(first) for first, text in tree["same"].items() for name in text.split()}
    wider: dict[str, tuple[str, ...]] = {}
    for wide, text in tree["wider"].items():
        for name in map(_spaced, text.split()):
            wider[name] = wider.get(name, ()) + ((_spaced(wide),) if wide != "nothing" else ())
    fixed = FIXED_COMPOUNDS.union(map(_spaced, tree["fixed"].split()))
    marks = [(_spaced(name), mark) for mark, text in tree["marks"].items() for name in text.split()]
    for what, names in (("names", listed), ("marks", marks)):
        if twice := sorted({name for name, _ in names if [other for other, _ in names].count(name) > 1}):
            raise ValueError(f"{path}: `{what}` has twice: {', '.join(twice)}")
    others = dict.fromkeys((*same, *wider, *(name for name, mark in marks if mark == "anything")), "")
    return ByHand(others | dict(listed), same, wider, fixed, dict(marks))


def table_of(wordnet: WordNet, by_hand: ByHand) -> str:
    """Return the text of the table, its rows sorted by name.

    Raises:
        ValueError: `kinds.yaml` names what has no row, or lists a name that gets neither a sense nor a wider name.
    """
    named = {*by_hand.same.values(), *chain.from_iterable(by_hand.wider.values()), *by_hand.marks}
    if unknown := sorted(named - by_hand.names.keys()):
        raise ValueError(f"kinds.yaml: no name and no row of its own has: {', '.join(unknown)}")
    sense = {name: wordnet.sense(name, file) if file else None for name, file in by_hand.names.items()}
    first = _first_names(wordnet, by_hand, sense)
    by_sense = {offset: first[name] for name, offset in sense.items() if offset and name not in by_hand.same}
    lines, unknown = [], []
    for name in sorted(by_hand.names):
        wide: Iterable[str] | set[str] = ()
        if first[name] == name:
            offset, tail = sense[name], _tail(name, by_hand.names) if name not in by_hand.fixed else None
            if name in by_hand.wider:
                wide = (first[each] for each in by_hand.wider[name])
            elif offset or tail:
                wide = _nearest(wordnet, by_sense, offset) if offset else set()
                wide |= {first[tail]} - {name} if tail else set()
            elif by_hand.marks.get(name) != "anything":
                unknown.append(name)
        # `english.plural_of` makes the others.
        plurals = [each for each in wordnet.plurals.get(name, ()) if each != plural_of(name) and each != name]
        same = first[name] if first[name] != name else ""
        lines.append("\t".join((name, same, ", ".join(sorted(wide)), by_hand.marks.get(name, ""), ", ".join(plurals))))
    if unknown:
        raise ValueError(f"kinds.yaml: WordNet has no sense, and no row by hand: {', '.join(unknown)}")
    return _HEADER + "\n".join(lines) + "\n"


def _first_names(wordnet: WordNet, by_hand: ByHand, sense: Mapping[str, str | None]) -> dict[str, str]:
    """The name that stands for each name's synonyms: the one with a mark, else the first that WordNet has."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name, offset in sense.items():
        if offset and name not in by_hand.same and name not in by_hand.wider:
            groups[offset].append(name)
    first = {name: name for name in by_hand.names}
    for offset, names in groups.items():
        words = wordnet.synsets[offset][1]
        order = sorted(names, key=lambda name: (name not in by_hand.marks, words.index(name), name))
        first |= dict.fromkeys(names, order[0])
    return first | {name: first[named] for name, named in by_hand.same.items()}


def _tail(name: str, names: Iterable[str]) -> str | None:
    """The longest listed name that a compound ends with."""
    words = name.split()
    return next((tail for at in range(1, len(words)) if (tail := " ".join(words[at:])) in names), None)


def _nearest(wordnet: WordNet, by_sense: Mapping[str, str], offset: str) -> set[str]:
    """The listed names above a sense that are not above another one of them."""
    found: set[str] = set()
    for above in wordnet.synsets[offset][2]:
        found |= {by_sense[above]} if above in by_sense else _nearest(wordnet, by_sense, above)
    return found


def main(
    folder: Annotated[Path, typer.Argument(help="The folder of WordNet's files.")] = Path("/usr/share/wordnet"),
    out: Annotated[Path, typer.Option(help="The table.")] = TABLE,
) -> None:
    """Makes the table of kinds from WordNet 3.0 and `kinds.yaml`."""
    out.write_text(table_of(read_wordnet(folder), read_by_hand()))


if __name__ == "__main__":
    typer.run(main)
