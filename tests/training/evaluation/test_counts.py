"""What counts as right, on images of a few masks; and the whole against the plainest code over a built run."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from itertools import permutations

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from pseudoris.store.location import RunLocation
from pseudoris.synthworld.attributes import is_held_out
from pseudoris.synthworld.grammar import parse_reference
from pseudoris.synthworld.oracle import referents
from pseudoris.synthworld.renderer import render
from pseudoris.synthworld.scene_truth import SceneTruth
from pseudoris.synthworld.scenes import Scene
from pseudoris.training.evaluation import evaluate_run
from pseudoris.training.evaluation.run_evaluation import FIGURES, MASK_FIGURES
from pseudoris.training.evaluation.truth import SETS, CandidateTable, count_image
from pseudoris.workers.masks import rle
from tests.builders.scene_runs import scene_run, scenes, truth_bytes
from tests.builders.tables import read_table

SIZE = (20, 40)


def boxes(*edges: tuple[int, int]) -> list[str]:
    """Return masks, each of ten rows and the columns from one edge to the other."""
    masks = torch.zeros((len(edges), *SIZE), dtype=torch.bool)
    for mask, (left, right) in zip(masks, edges, strict=True):
        mask[5:15, left:right] = True
    return rle.encode(masks)


@dataclass
class Known:
    """Objects side by side; a text is the numbers of those that it refers to, `?` cannot be told."""

    masks: list[str] = field(default_factory=lambda: boxes((0, 10), (15, 25), (30, 40)))
    size: tuple[int, int] = SIZE

    def referents(self, text):
        return None if text == "?" else frozenset(int(word) for word in text.split() if word.isdigit())

    def attributes(self, text, number):
        return (0, 0, 4) if text == "?" else (2, 1, 4)

    def num_alike(self, number):
        return number * 2

    def group(self, number):
        return "first" if number == 0 else None


def candidates(*rows, masks=None, kept=True, draws=(0, 0, 1, 0)) -> CandidateTable:
    """Return rows of (mask, text[, draws[, kept]]) over the masks of the objects, by default."""
    masks = boxes((0, 10), (15, 25), (30, 40)) if masks is None else masks
    whole = [(*row, *(draws, kept)[len(row) - 2 :]) for row in rows]
    return CandidateTable(
        size=SIZE,
        mask_ids=[f"m{n}" for n in range(len(masks))],
        mask_counts=masks,
        texts=[text for _, text, _, _ in whole],
        targets=[[f"m{n}" for n in np.atleast_1d(mask)] for mask, _, _, _ in whole],
        draws=np.array([each for _, _, each, _ in whole], dtype=np.int64).reshape(-1, 4),
        is_kept=np.array([each for _, _, _, each in whole], dtype=bool),
        kinds=["attribute"] * len(whole),
        sources=["model"] * len(whole),
    )


def test_what_was_composed_is_no_candidate_whatever_its_kind_and_what_a_human_wrote_is_one():
    said = candidates((0, "0"), (1, "1"), (1, "2"), draws=(0, 0, 0, 0))
    sums = count_image(Known(), replace(said, sources=["composer", "human", "human"]))
    assert sums["all.accuracy"] == (1.0, 2.0)
    assert sums["kept.accuracy"] == (2.0, 3.0)


def test_kinds_are_counted_apart_and_what_has_not_one_target_covers_no_object():
    said = candidates((0, "0"), ((0, 1), "0 1"), ((), ""), ((), "2"), draws=(0, 0, 0, 0))
    said = replace(said, kinds=["position", "group", "none", "none"], sources=["composer"] * 4)
    sums = count_image(Known(), said)
    assert {name: pair for name, pair in sums.items() if name.startswith("kind.")} == {
        "kind.position": (1.0, 1.0),
        "kind.group": (1.0, 1.0),
        "kind.none": (1.0, 2.0),
    }
    assert sums["kept.accuracy"] == (3.0, 4.0)
    assert sums["kept.coverage"] == (1.0, 3.0)
    # Nobody drew what was composed: it is no candidate.
    assert sums["all.accuracy"] == (0.0, 0.0)
    assert "difficulty.no object" not in sums
    assert count_image(Known(), candidates((0, "0")))["kind.attribute"] == (1.0, 1.0)


NAMES = ("category", "colour", "pattern", "size", "part")


def plain_figures(location: RunLocation, known: dict[str, Scene]) -> dict[str, float]:
    """The figures by the plainest code: a loop a row, masks as pixels, nothing shared."""
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


def test_every_figure_of_a_run_is_what_the_plainest_code_finds(tmp_path):
    known = scenes(9)
    location = RunLocation.open(str(tmp_path / "run"))
    scene_run(location, known, per_shard=4)
    due = plain_figures(location, known)
    found = evaluate_run(location, SceneTruth.from_json(truth_bytes(known), "truth.json"))
    values = {f"{name}.{figure}": found.sets[name][figure].value for name in SETS for figure in FIGURES}
    values |= {f"masks.{figure}": found.mask_quality[figure].value for figure in MASK_FIGURES}
    values |= {f"difficulty.{name}": part.accuracy.value for name, part in found.difficulty.items() if part.expressions}
    values |= {f"group.{name}": part.accuracy.value for name, part in found.groups.items() if part.expressions}
    assert values == pytest.approx(due)
    assert 0 < due["kept.accuracy"] < 1
    assert 0 < due["masks.recall_75"] < due["masks.recall_50"] < 1
