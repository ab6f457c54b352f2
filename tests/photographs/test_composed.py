"""The photographs through the composer, with captions from a file: sizes, English and arithmetic, not accuracy.

What is composed is judged by the instances, with arithmetic of its own. A phrase fits a thing if its head is one of the
thing's names and each of its other words is of the thing's attributes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest

from pseudoris.primitives import english as lexicon
from pseudoris.primitives import rle
from pseudoris.schemas.ids import image_id, mask_index
from tests.builders.command import pseudoris_here
from tests.photographs.told import PHOTOS, WORDS, Thing, settings, things, write_inputs

_NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
_RANKS = {"second": 2, "third": 3, "fourth": 4}
_AXES = {"left": (0, -1), "right": (0, 1), "top": (1, -1), "bottom": (1, 1), "upper": (1, -1), "lower": (1, 1)}
_SIDE = "left|right|top|bottom|upper|lower"
_OF_MANY = re.compile(rf"the ({_SIDE})(?:most)? of the (\w+) (.+)")
_EXTREME = re.compile(r"the (left|right|top|bottom)most (.+)")
_RANK = re.compile(r"the (second|third|fourth) (.+) from the (left|right|top|bottom)")
_AT_SIDE = re.compile(r"the (.+) (?:on|at) the (left|right|top|bottom)")
_RELATION = re.compile(r"the (.+?) (to the left of|to the right of|above|below) the (.+)")
_GROUP = re.compile(r"(?:the (two|three|four|five|six)|(all)) (.+)")
_BESIDE = {"to the left of": (0, -1), "to the right of": (0, 1), "above": (1, -1), "below": (1, 1)}
_LITTLE = lexicon.DETERMINERS | lexicon.PREPOSITIONS | {"pair", "pairs", "wearing", "has"}


@dataclass(frozen=True)
class Place:
    """The things of an image and their centres, (N, 2) float64: shares of width and height."""

    things: Sequence[Thing]
    centres: np.ndarray[Any, np.dtype[np.float64]]

    def fitting(self, phrase: str, noun: str) -> list[int]:
        """Return the numbers of the things that a phrase with this head fits."""
        return [number for number, thing in enumerate(self.things) if _fits(phrase, noun, thing)]


def _fits(phrase: str, noun: str, thing: Thing) -> bool:
    plural = " ".join([*noun.split()[:-1], lexicon.plural_of(noun.split()[-1])])
    rest = phrase.replace(plural, " ", 1) if plural in phrase else phrase.replace(noun, " ", 1)
    true = {word for each in (*thing.attributes, *thing.names) for word in each.split()}
    true |= {lexicon.plural_of(word) for word in true}
    return noun in thing.names and all(word in true for word in rest.split() if word not in _LITTLE)


def verdict(row: Mapping[str, Any], place: Place, targets: Sequence[int]) -> bool | None:
    """Return whether what a row says of number and place is right; None if the head is wrong for a target, or unclear.

    Absences are right if no thing fits.
    """
    text, noun = row["text"], row["head_noun"]
    if row["kind"] == "none":
        return not place.fitting(text.removeprefix("the "), noun)
    if any(noun not in place.things[each].names for each in targets):
        return None
    if row["kind"] == "group":
        number, every, phrase = _matched(_GROUP, text)
        found = place.fitting(phrase, noun)
        return sorted(found) == sorted(targets) and (bool(every) or _NUMBERS[number] == len(targets))
    (target,) = targets
    return _placed(text, noun, place, target)


def _matched(pattern: re.Pattern[str], text: str) -> tuple[str, ...]:
    match = pattern.fullmatch(text)
    assert match is not None, f"no form of a group: {text}"
    return match.groups()


def _placed(text: str, noun: str, place: Place, target: int) -> bool | None:
    if match := _OF_MANY.fullmatch(text):
        found = place.fitting(match[3], noun)
        return len(found) == _NUMBERS[match[2]] and _rank(place, found, target, _AXES[match[1]]) == 1
    if match := _EXTREME.fullmatch(text):
        return _rank(place, place.fitting(match[2], noun), target, _AXES[match[1]]) == 1
    if match := _RANK.fullmatch(text):
        axis, way = _AXES[match[3]]
        return _rank(place, place.fitting(match[2], noun), target, (axis, way)) == _RANKS[match[1]]
    if match := _RELATION.fullmatch(text):
        return _related(match, noun, place, target)
    if match := _AT_SIDE.fullmatch(text):
        axis, way = _AXES[match[2]]
        # Of the third that is named, with a tolerance of what a viewer may see.
        there = [each for each in place.fitting(match[1], noun) if way * (place.centres[each, axis] - 0.5) > 0.12]
        return there == [target]
    return place.fitting(text.removeprefix("the "), noun) == [target]


def _rank(place: Place, found: Sequence[int], target: int, axis: tuple[int, int]) -> int | None:
    ordered = sorted(found, key=lambda each: -axis[1] * place.centres[each, axis[0]])
    return 1 + ordered.index(target) if target in ordered else None


def _related(match: re.Match[str], noun: str, place: Place, target: int) -> bool | None:
    axis, way = _BESIDE[match[2]]
    anchors = {
        number
        for number, thing in enumerate(place.things)
        if any(name in match[3] and _fits(match[3], name, thing) for name in thing.names)
    }
    if len(anchors) != 1:
        # The anchor is misnamed or is not unique.
        return False
    (anchor,) = anchors
    steps = way * (place.centres[:, axis] - place.centres[anchor, axis])
    return [each for each in place.fitting(match[1], noun) if steps[each] > 0 and each != anchor] == [target]


def composed(out: Path) -> tuple[Sequence[Mapping[str, Any]], Mapping[str, Place]]:
    """Return a run's composed rows, and what its images show by their ids: mask n is instance n of its image."""
    rows = ds.dataset(out / "expressions").to_table(filter=ds.field("source") == "composer").to_pylist()
    masks, found = ds.dataset(out / "masks").to_table().to_pylist(), {}
    for name, truth in things().items():
        image, centres, shown = image_id(name), [], []
        for row in sorted((row for row in masks if row["image_id"] == image), key=lambda row: row["mask_id"]):
            size = row["segmentation"]["size"]
            pixels = rle.decode([row["segmentation"]["counts"]], tuple(size))[0]
            centres.append(
                [float(at.mean()) / side for at, side in zip(np.nonzero(pixels)[::-1], size[::-1], strict=True)]
            )
            shown.append(truth[mask_index(row["mask_id"])][1])
        found[image] = Place(shown, np.array(centres).reshape(-1, 2))
    return rows, found


def coco_categories(noun: str) -> set[str]:
    """Return the categories of which a head may be the name."""
    kinds = {kind for kind, words in WORDS.items() if noun in (*words["names"], *words["wider"])}
    return {"person" if kind in ("man", "woman", "boy", "girl") else kind for kind in kinds}


def tally(rows: Sequence[Mapping[str, Any]], found: Mapping[str, Place]) -> Counter[tuple[str, bool | None]]:
    """Return how many composed rows of each kind are right (True), wrong (False), or of a misnamed target (None)."""
    counted: Counter[tuple[str, bool | None]] = Counter()
    for row in rows:
        targets = [mask_index(each) for each in row["target_mask_ids"]]
        counted[row["kind"], verdict(row, found[row["image_id"]], targets)] += 1
    return counted


def absences(rows: Sequence[Mapping[str, Any]], found: Mapping[str, Place]) -> tuple[int, int]:
    """Return how many absences name a category of COCO by a bare noun, and of how many the image has an instance."""
    judged = Counter[bool]()
    for row in rows:
        categories = coco_categories(row["head_noun"])
        if row["kind"] == "none" and categories and row["text"] == f"the {row['head_noun']}":
            judged[not categories.isdisjoint(thing.category for thing in found[row["image_id"]].things)] += 1
    return judged[True] + judged[False], judged[True]


pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"the test photographs are absent: {PHOTOS.name} beside the clone"),
]


def test_what_is_composed_of_told_captions_is_true_of_the_instances(ray_session, stub_engines, tmp_path):
    write_inputs(tmp_path)
    words = ("--preset", "base-composed", *settings(tmp_path))
    pseudoris_here("annotate", str(PHOTOS), str(tmp_path / "out"), *words, code=0)
    rows, found = composed(tmp_path / "out")
    assert sum(len(place.things) for place in found.values()) == 246
    counted = tally(rows, found)
    print(counted)
    right, wrong = ({kind: n for (kind, is_right), n in counted.items() if is_right is way} for way in (True, False))
    assert wrong.get("none", 0) <= 0.02 * right["none"]
    of_one = ("attribute", "position", "relation", "group")
    said = sum(right.get(kind, 0) for kind in of_one)
    assert said >= 100
    assert sum(wrong.get(kind, 0) for kind in of_one) <= 0.03 * said
    num_named, num_there = absences(rows, found)
    print(num_named, num_there)
    assert num_there <= 0.02 * num_named
    pseudoris_here("verify", str(tmp_path / "out"), code=0)
