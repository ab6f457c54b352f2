"""The figures of an evaluation by the plainest code: a loop a row, masks as pixels, nothing shared."""

from __future__ import annotations

from collections import defaultdict
from itertools import permutations

import numpy as np
from pycocotools import mask as coco

from pseudoris.store.location import RunLocation
from pseudoris.synthworld.attributes import is_held_out
from pseudoris.synthworld.grammar import parse_reference
from pseudoris.synthworld.oracle import referents
from pseudoris.synthworld.renderer import render
from pseudoris.synthworld.scenes import Scene
from tests.builders.tables import read_table

NAMES = ("category", "colour", "pattern", "size", "part")


def plain_figures(location: RunLocation, known: dict[str, Scene]) -> dict[str, float]:
    """Return each figure's value under the name that counting gives it."""
    masks, expressions = _by_image(location, "masks"), _by_image(location, "expressions")
    sums: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def add(name: str, numerator: float, denominator: float) -> None:
        sums[name][0] += numerator
        sums[name][1] += denominator

    for row in read_table(location, "images").to_pylist():
        if row["key"] in known:
            _add_image(add, known[row["key"]], masks[row["image_id"]], expressions[row["image_id"]])
    return {name: top / bottom for name, (top, bottom) in sums.items() if bottom}


def _by_image(location, table):
    found = defaultdict(list)
    for row in read_table(location, table).to_pylist():
        found[row["image_id"]].append(row)
    return found


def _add_image(add, scene, masks, expressions):
    truth = render(scene).masks
    object_of, reached = _match([coco.decode(row["segmentation"]).astype(bool) for row in masks], truth)
    numbers = {masks[place]["mask_id"]: number for place, number in object_of.items()}
    visible = sum(bool(mask.any()) for mask in truth)
    add("masks.recall_50", sum(iou > 0 for iou in reached), visible)
    add("masks.recall_75", sum(iou >= 0.75 for iou in reached), visible)
    add("masks.mean_iou", sum(reached), visible)
    add("masks.proposals", len(masks), visible)
    add("masks.objects", len(numbers), len(masks))
    for name in ("beam", "top_k", "top_p", "sampling", "all", "kept"):
        covered = set()
        for row in expressions:
            times = _times(name, row)
            number = numbers.get(row["target_mask_ids"][0])
            is_right = number is not None and referents(row["text"], scene) == {number}
            add(f"{name}.accuracy", times * is_right, times)
            add(f"{name}.words", times * len(row["text"].split()), times)
            add(f"{name}.yield", times, 0)
            add(f"{name}.distinct", times > 0, 0)
            if number is None:
                continue
            add(f"{name}.accuracy_on_objects", times * is_right, times)
            covered |= {number} if is_right and times else set()
            item = scene.objects[number].attributes
            said = parse_reference(row["text"])
            told = {} if said is None else {n: getattr(said.noun, n) for n in NAMES}
            told = {n: word for n, word in told.items() if word is not None}
            true = sum(getattr(item, n) == word for n, word in told.items())
            add(f"{name}.attribute_precision", times * true, times * len(told))
            add(f"{name}.attribute_recall", times * true, times * sum(getattr(item, n) is not None for n in NAMES))
        add(f"{name}.yield", 0, len(masks))
        add(f"{name}.distinct", 0, len(masks))
        add(f"{name}.coverage", len(covered), visible)
    for row in expressions:
        if row["kept"]:
            number = numbers.get(row["target_mask_ids"][0])
            is_right = number is not None and referents(row["text"], scene) == {number}
            add(f"difficulty.{_difficulty(scene, number)}", is_right, 1)
            if number is not None:
                item = scene.objects[number].attributes
                add(f"group.{'held_out' if is_held_out(item.category, item.colour) else 'seen'}", is_right, 1)


def _times(name, row):
    drawn = [sample["decoder"] for sample in row["samples"]]
    if name == "kept":
        return int(row["kept"])
    if name == "all":
        return len(drawn)
    return sum(each in ("top_k", "top_p") if name == "sampling" else each == name for each in drawn)


def _difficulty(scene, number):
    if number is None:
        return "no object"
    own = scene.objects[number].attributes.category
    others = sum(item.attributes.category == own for item in scene.objects) - 1
    return "3+" if others >= 3 else str(others)


def _match(masks, truth):
    """Try every assignment of few masks to few objects."""
    ious = np.array([[(m & t).sum() / max((m | t).sum(), 1) for t in truth] for m in masks]).reshape(-1, len(truth))
    worth = np.where(ious >= 0.5, ious, 0.0)
    # Objects nobody comes near cannot matter: without them every assignment can be tried.
    near_masks, near_objects = np.flatnonzero(worth.any(1)), np.flatnonzero(worth.any(0))
    best, pairs = -1.0, {}
    places = [*near_objects, *[-1] * len(near_masks)]
    if len(near_masks) > 5:
        places = list(near_objects)  # scenes keep objects apart: each of them then has its own
        chosen = {int(m): int(worth[m].argmax()) for m in near_masks}
        assert len(set(chosen.values())) == len(chosen)
        pairs = chosen
    else:
        for order in set(permutations(places, len(near_masks))):
            total = sum(worth[m, n] for m, n in zip(near_masks, order, strict=True) if n >= 0)
            if total > best:
                best = total
                pairs = {int(m): int(n) for m, n in zip(near_masks, order, strict=True) if n >= 0 and worth[m, n]}
    reached = [0.0] * len(truth)
    for mask, number in pairs.items():
        reached[number] = ious[mask, number]
    return pairs, reached
