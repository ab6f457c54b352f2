"""Opens the truth that `--truth` names; a human's annotation as a truth: an OUT of `pseudoris import`.

Called by `cli`, `pseudoris`, `training` and experiments. Masks are exact. The judgement of a text is an approximation,
and every report says so: a text refers to the object with the most similar sentence, by token F1.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final, Protocol, Self

import numpy as np

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.head_nouns import head_noun
from pseudoris.primitives.threads import map_in_threads
from pseudoris.schemas.fitted import Floats
from pseudoris.schemas.keep_rule import Ints
from pseudoris.schemas.run_records import RunHeader
from pseudoris.schemas.tables import STATUS_QUARANTINED
from pseudoris.store.runs.header import read_header
from pseudoris.store.tables.open_run import JoinedTables, OpenRun, places_by_mask
from pseudoris.training.evaluation.run_images import CommittedImage, joined_tables
from pseudoris.training.evaluation.truth import Truth

SYNTHWORLD: Final = "synthworld"
APPROXIMATION: Final = (
    "Texts are judged approximately: a text refers to the object whose human sentences are most similar to it (token "
    "F1). If two objects tie, or no word is shared, it refers to none. True words that no human used count as wrong. "
    "Words that are shared by chance count as right."
)
UNANNOTATED: Final = (
    "Objects without human annotation do not count as objects: expressions of their masks count as wrong. The accuracy "
    "on objects leaves these expressions out."
)
ALIKE: Final = "Two objects share a category if sentences of both have the same head noun, found by rules."
WITHOUT_SENTENCE: Final = "The truth has no sentences, so only the figures of the masks are meaningful."
_THREADS: Final = 4
# Matches letters and digits of any script. Punctuation separates words and is dropped.
_WORD: Final = re.compile(r"[^\W_]+")


class SceneFile(Protocol):
    """The synthetic world's truth as a file: `SceneTruth` of `pseudoris.synthworld`, which this room may not import."""

    @property
    def file_name(self) -> str:
        """Its name, next to the folder of images."""

    def from_json(self, data: bytes, name: str) -> Truth:
        """Return the truth in a file of this name. Raises: ConfigError: It is not such a file."""


def open_truth(
    name: str, header: RunHeader, scenes: SceneFile, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Truth:
    """Return the truth that `--truth` names: `synthworld`, `synthworld:FILE`, or the location of an import.

    `header` is that of the evaluated run: the synthetic world's truth, which `scenes` reads, is next to its SOURCE.
    `on_progress` gets the number of shards of an import that are read, and the total.
    """
    kind, colon, file = name.partition(":")
    if kind == SYNTHWORLD:
        if colon:
            return _scene_truth(file, scenes, None)
        return _scene_truth(beside(header.source, scenes.file_name), scenes, header)
    if Path(name).is_file():
        raise ConfigError(
            f"--truth {name} is a file. Give the OUT of `pseudoris import`. If the file is a truth.json of the "
            f"synthetic world, give {SYNTHWORLD}:{name}."
        )
    location = RunLocation.open(name)
    if read_header(location) is None:
        raise ConfigError(
            f"--truth {name!r} is neither `{SYNTHWORLD}` nor `{SYNTHWORLD}:FILE`, and there is no run at "
            f"{location.root}. Give the OUT of `pseudoris import`."
        )
    return HumanTruth.read(location, on_progress)


def beside(source: str, file_name: str) -> str:
    """Return the address of a file next to the folder of images of a SOURCE."""
    return f"{source.rstrip('/').rpartition('/')[0]}/{file_name}"


def _scene_truth(address: str, scenes: SceneFile, header: RunHeader | None) -> Truth:
    folder, _, name = address.rpartition("/")
    remedy = f"Name the file with --truth {SYNTHWORLD}:FILE. `python -m pseudoris.synthworld.demo FOLDER` writes one."
    if not name or (folder and folder.endswith((":", "/"))):
        raise ConfigError(f"There is no file at {address!r}. {remedy}")
    endpoint_url = None if header is None else header.config.source.endpoint_url
    location = RunLocation.open(folder or str(Path.cwd()), endpoint_url)
    try:
        data = location.read_bytes(name)
    except FileNotFoundError:
        raise ConfigError(f"There is no truth of the synthetic world at {location.uri(name)}. {remedy}") from None
    return scenes.from_json(data, location.uri(name))


@dataclass(frozen=True, slots=True, eq=False)
class HumanTruth:
    """All images of an imported run; fulfils `Truth`. Memory: its masks' run lengths and its texts."""

    title: str
    notes: tuple[str, ...]
    _shards: list[JoinedTables]
    # Maps an image's id to the index of its shard, and to its number in that shard.
    _places: dict[str, tuple[int, int]]
    groups: tuple[str, ...] = field(default=())
    # A sentence is compared with a single object, so expressions of several objects or of none cannot be judged.
    unjudged_kinds: tuple[str, ...] = field(default=("group", "none"))
    judges_texts: bool = True

    @classmethod
    def read(cls, location: RunLocation, on_progress: Callable[[int, int], None] = lambda done, total: None) -> Self:
        """Read an OUT of `pseudoris import`; `on_progress` is called with the number of shards read, and of all."""
        run = OpenRun.at(location)
        header = run.header
        if not header.is_human:
            made = "models, corrected" if header.origin == "import" else f"`pseudoris {header.origin}`"
            raise ConfigError(
                f"--truth {location.root} is a run of {made}, not human annotation. Give the OUT of `pseudoris "
                "import`, or `synthworld`."
            )
        if not run.is_complete:
            raise ConfigError(
                f"--truth {location.root} is not complete: {len(run.receipts):,} of {header.num_shards:,} shards are "
                "committed. Finish it with the same `pseudoris import` command."
            )

        shards: list[JoinedTables] = []
        read = map_in_threads(lambda each: joined_tables(each, "target_mask_ids", "text"), run.shards(), _THREADS)
        for tables in read:
            shards.append(tables)
            on_progress(len(shards), header.num_shards)
        has_sentences = any(tables.expressions.num_rows for tables in shards)
        notes = (APPROXIMATION, UNANNOTATED, ALIKE) if has_sentences else (WITHOUT_SENTENCE,)
        title = f"human annotation, {location.root}"
        places = {
            row["image_id"]: (shard, number)
            for shard, tables in enumerate(shards)
            for number, row in enumerate(tables.images.select(["image_id", "status"]).to_pylist())
            if row["status"] != STATUS_QUARANTINED
        }
        return cls(title, notes, shards, places, judges_texts=has_sentences)

    @property
    def num_images(self) -> int:
        """How many images were annotated and could be read."""
        return len(self._places)

    @property
    def example_key(self) -> str | None:
        """The key of the first of them."""
        place = next(iter(self._places.values()), None)
        return None if place is None else str(self._shards[place[0]].images["key"][place[1]].as_py())

    def of_image(self, image_id: str) -> HumanImageTruth | None:
        """Return the objects of an image; None if it has no annotation, or a quarantined one."""
        place = self._places.get(image_id)
        if place is None:
            return None
        image = CommittedImage.of(self._shards[place[0]], place[1])
        targets, texts = (image.expressions[name].to_pylist() for name in ("target_mask_ids", "text"))
        places = places_by_mask(image.mask_ids, targets, where=self.title)
        return HumanImageTruth(image.size, image.mask_counts, [[texts[at] for at in each] for each in places.values()])


@dataclass(frozen=True, eq=False)
class HumanImageTruth:
    """The objects of one image and the human expressions of each; fulfils `ImageTruth`.

    Token F1 is 2 · words in common / (words of the text + words of the sentence), counted as often as they occur.
    """

    size: tuple[int, int]
    masks: list[str]
    sentences: list[list[str]]

    @cached_property
    def _words(self) -> tuple[Ints, Ints, dict[str, Ints]]:
        """Of S sentences the object (S,), the number of words (S,), and by word how often each has it (S,)."""
        said = [(number, Counter(text_words(text))) for number, texts in enumerate(self.sentences) for text in texts]
        times: defaultdict[str, Ints] = defaultdict(lambda: np.zeros(len(said), dtype=np.int64))
        for place, (_, counts) in enumerate(said):
            for word, count in counts.items():
                times[word][place] = count
        numbers = np.array([(number, counts.total()) for number, counts in said], dtype=np.int64).reshape(-1, 2)
        return numbers[:, 0], numbers[:, 1], dict(times)

    @cached_property
    def _nouns(self) -> list[frozenset[str]]:
        return [frozenset(filter(None, map(head_noun, texts))) for texts in self.sentences]

    def scores(self, text: str) -> Floats:
        """Return the F1 of a text with each object's best sentence, (N,) float64 in [0, 1]."""
        best, counts = np.zeros(len(self.sentences)), Counter(text_words(text))
        objects, lengths, times = self._words
        common = np.zeros(len(objects), dtype=np.int64)
        for word, count in counts.items():
            if word in times:
                common += np.minimum(times[word], count)
        # The divisor is at least 1, because two empty sentences have no words at all.
        np.maximum.at(best, objects, 2 * common / np.maximum(lengths + counts.total(), 1))
        return best

    def referents(self, text: str) -> frozenset[int] | None:
        """Return the one object that a text agrees with most; None if it agrees with none, or equally with several."""
        scores = self.scores(text)
        # Equal scores are found without a tolerance, because equal fractions of whole numbers are equal floats.
        nearest = np.flatnonzero(scores == scores.max(initial=0.0)).tolist()
        return frozenset(nearest) if len(nearest) == 1 and scores[nearest[0]] > 0 else None

    def attributes(self, text: str, number: int) -> tuple[int, int, int] | None:
        """Return None: attributes are not annotated."""
        return None

    def num_alike(self, number: int) -> int:
        """Return how many other objects are called by a noun that this one is called by too."""
        own = self._nouns[number]
        return sum(bool(own & nouns) for other, nouns in enumerate(self._nouns) if other != number)

    def group(self, number: int) -> str | None:
        """Return None: there are no groups."""
        return None


def text_words(text: str) -> list[str]:
    """Return the words of a text, lower-cased, without punctuation."""
    return _WORD.findall(text.lower())
