"""What a captioner might say of the test photographs: drawn by a seed from own words, with its faults planted.

No model looked at a photograph. The instances tell where things are and of which category; the rest of a thing's truth
(a man, in a red shirt) is drawn. So what is composed of it proves English, sizes, speed and arithmetic, not accuracy.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

PHOTOS = Path(__file__).parents[3] / "shared" / "assets" / "photos"
WORDS = yaml.safe_load((Path(__file__).parent / "words.yaml").read_text(encoding="utf-8"))
NUM_DRAWS = 28
# Of the draws of `coca` about 12 % have a wrong noun. Here 6 % of the things are called another thing by most draws,
# and of all others 9 % of the draws are wrong.
_MISNAMED, _MISNAMED_DRAWS, _WRONG_NOUN = 0.06, 0.6, 0.09
_WRONG_ATTRIBUTE = 0.08
_SCENERY = (
    "on a street",
    "in a room",
    "in front of a building",
    "on a table",
    "with trees in the background",
    "at night",
)
_LEAD_INS = ("a close up of ", "a photo of ", "there is ")
# As a captioner that speaks another tongue for once, loops, or says nothing.
_NOISE = ("a a a", "un perro negro en la calle", "it is very nice")


@dataclass(frozen=True)
class Thing:
    """One instance: its category, the names that are true of it, its attributes, and whether it is a crowd of such."""

    category: str
    kind: str
    attributes: tuple[str, ...]
    is_crowd: bool

    @property
    def names(self) -> list[str]:
        """All names that are true of it, wider ones included."""
        return [*WORDS[self.kind]["names"], *WORDS[self.kind]["wider"]]


def things(photos: Path = PHOTOS) -> Mapping[str, Sequence[tuple[Mapping[str, Any], Thing]]]:
    """Return by file name each image's instances in the file's order, with a drawn truth."""
    data = json.loads((photos / "instances.json").read_text(encoding="utf-8"))
    categories = {each["id"]: each["name"] for each in data["categories"]}
    found = {}
    for image in sorted(data["images"], key=lambda each: each["file_name"]):
        rows = [row for row in data["annotations"] if row["image_id"] == image["id"]]
        found[image["file_name"]] = [(row, _thing(categories[row["category_id"]], row)) for row in rows]
    return found


def _thing(category: str, row: Mapping[str, Any]) -> Thing:
    draw = random.Random(row["id"])
    kind = draw.choices(["man", "woman", "boy", "girl"], [4, 4, 1, 1])[0] if category == "person" else category
    words = WORDS[kind]
    attributes = draw.sample(words["says"], 1) + draw.sample(words["does"], min(1, len(words["does"])))
    return Thing(category, kind, tuple(attributes), bool(row["iscrowd"]))


def captions(thing: Thing, seed: int) -> Counter[str]:
    draw = random.Random(f"captions {seed}")
    wrong = draw.choice(WORDS[thing.kind]["wrong"]) if draw.random() < _MISNAMED else None
    return Counter(_caption(thing, draw, wrong) for _ in range(NUM_DRAWS))


def _caption(thing: Thing, draw: random.Random, misnamed: str | None) -> str:
    words = WORDS[thing.kind]
    if draw.random() < 0.02:
        return draw.choice(_NOISE)
    chance = draw.random()
    noun = words["names"][0] if chance < 0.68 else draw.choice(words["names"][1:] or words["names"])
    noun = draw.choice(words["wider"]) if chance > 0.92 and words["wider"] else noun
    if misnamed and draw.random() < _MISNAMED_DRAWS:
        noun = misnamed
    elif not misnamed and draw.random() < _WRONG_NOUN:
        noun = draw.choice(words["wrong"])
    said = [each for each in thing.attributes if draw.random() < 0.55]
    said = [draw.choice(words["says"]) if draw.random() < _WRONG_ATTRIBUTE else each for each in said]
    before = [each for each in said if is_adjective(each)]
    after = [each for each in said if not is_adjective(each)]
    scenery = [draw.choice(_SCENERY)] if draw.random() < 0.3 else []
    if thing.is_crowd:
        return " ".join(["a group of", f"{noun}s" if noun != "person" else "people", *scenery])
    text = " ".join([*before, noun, *after, *scenery])
    is_plain = noun == "scissors" or draw.random() < 0.1
    if before and not after and draw.random() < 0.15 and noun != "scissors":
        text, is_plain = f"{noun} that is {before[0]}", False
    article = "" if is_plain else "an " if text[0] in "aeiou" else "a "
    return (draw.choice(_LEAD_INS) if draw.random() < 0.12 and article else "") + article + text


def is_adjective(attribute: str) -> bool:
    """Return whether an attribute stands before its noun: one of one word that is no clause, or "double decker"."""
    return attribute == "double decker" or (
        " " not in attribute and not attribute.endswith("ing") and attribute != "parked"
    )


def write_inputs(folder: Path, photos: Path = PHOTOS) -> None:
    """Write what a run of the photographs reads: `masks/`, as SA-1B has them, and `captions.json`, by key and mask."""
    sizes = {
        image["file_name"]: {"height": image["height"], "width": image["width"]}
        for image in json.loads((photos / "instances.json").read_text(encoding="utf-8"))["images"]
    }
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    said = {}
    for name, rows in things(photos).items():
        masks = [{"segmentation": row["segmentation"]} for row, _ in rows]
        document = {"image": sizes[name], "annotations": masks}
        (folder / "masks" / name).with_suffix(".json").write_text(json.dumps(document))
        said[name] = [captions(thing, row["id"]) for row, thing in rows]
    (folder / "captions.json").write_text(json.dumps(said))


def settings(folder: Path) -> Iterator[str]:
    """Yield the words of `annotate` that put file and masks in the models' places, over a preset that composes."""
    values = {
        "masks.engine": "ready",
        "masks.options": f"{{folder: {folder / 'masks'}}}",
        "masks.reduction": "{mask_nms_iou: 1, min_area: 0, max_area: 1, min_inside: 1, max_part_area: 0}",
        "captions.engine": "told",
        "captions.options": f"{{file: {folder / 'captions.json'}}}",
        # A file has nobody that listens: draws are counted.
        "captions.listening": "null",
        "filtering.engine": "flat",
        "compute.device": "cpu",
        "placement.fused": "{num_cpus: 0.75, num_gpus: 0, max_actors: 1}",
    }
    for key, value in values.items():
        yield from ("--set", f"{key}={value}")
