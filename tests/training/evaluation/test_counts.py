"""Every figure of an evaluation, and its interval, against the plainest code."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from pseudoris.files.location import RunLocation
from pseudoris.schemas.estimate import RESAMPLES, ImageBootstrap
from pseudoris.schemas.shard import ShardImage
from pseudoris.store.tables.open_run import OpenRun
from pseudoris.synthworld.attributes import is_held_out
from pseudoris.synthworld.grammar import parse_reference
from pseudoris.synthworld.renderer import render
from pseudoris.synthworld.scene_truth import SceneTruth, referents
from pseudoris.synthworld.scenes import Scene
from pseudoris.training.evaluation import evaluate_run
from pseudoris.training.evaluation.run_evaluation import FIGURES, MASK_FIGURES
from pseudoris.training.evaluation.truth import SETS
from tests.builders.scene_runs import said, scene_run, scenes, truth_bytes

NAMES = ("category", "colour", "pattern", "size", "part")


def plain_figures(location: RunLocation, known: dict[str, Scene]) -> dict[str, float]:
    """The figures by the plainest code: a loop a row, masks as pixels, nothing shared."""
    masks, expressions = _by_image(location, "masks"), _by_image(location, "expressions")
    sums: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def add(name: str, numerator: float, denominator: float) -> None:
        sums[name][0] += numerator
        sums[name][1] += denominator

    for row in OpenRun.at(location).table("images").to_pylist():
        if row["key"] in known:
            _add_image(add, known[row["key"]], masks[row["image_id"]], expressions[row["image_id"]])
    return {name: top / bottom for name, (top, bottom) in sums.items() if bottom}


def _by_image(location, table):
    found = defaultdict(list)
    for row in OpenRun.at(location).table(table).to_pylist():
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
            number, is_right = _verdict(row, numbers, scene)
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
            number, is_right = _verdict(row, numbers, scene)
            add(f"kind.{row['kind']}", is_right, 1)
            if len(row["target_mask_ids"]) == 1:
                add(f"difficulty.{_difficulty(scene, number)}", is_right, 1)
            if number is not None:
                item = scene.objects[number].attributes
                add(f"group.{'held_out' if is_held_out(item.category, item.colour) else 'seen'}", is_right, 1)


def _verdict(row, numbers, scene):
    """Return the object that is the only target, if there is one, and whether the text is right of all targets."""
    targets = [numbers.get(each) for each in row["target_mask_ids"]]
    is_right = None not in targets and referents(row["text"], scene) == {*targets}
    return targets[0] if len(targets) == 1 else None, is_right


def _times(name, row):
    drawn = [sample["decoder"] for sample in row["samples"]]
    if name == "kept":
        return int(row["kept"])
    if name == "all":
        # What a human wrote is one candidate, and what was composed is none.
        return len(drawn) or int(row["source"] == "human")
    return sum(each in ("top_k", "top_p") if name == "sampling" else each == name for each in drawn)


def _difficulty(scene, number):
    if number is None:
        return "no object"
    own = scene.objects[number].attributes.category
    others = sum(item.attributes.category == own for item in scene.objects) - 1
    return "3+" if others >= 3 else str(others)


def _match(masks, truth):
    """Give each mask the object that it is nearest to: scenes keep objects apart."""
    ious = np.array([[(m & t).sum() / max((m | t).sum(), 1) for t in truth] for m in masks]).reshape(-1, len(truth))
    pairs = {mask: int(ious[mask].argmax()) for mask in np.flatnonzero((ious >= 0.5).any(1)).tolist()}
    assert len({*pairs.values()}) == len(pairs)
    reached = [0.0] * len(truth)
    for mask, number in pairs.items():
        reached[number] = ious[mask, number]
    return pairs, reached


def with_others(image: ShardImage, scene: Scene) -> ShardImage:
    """Return an image with a human's expression, and composed ones of one mask, of two and of none."""
    one, two, *_ = (mask.mask_id for mask in image.masks)
    both = f"the two {scene.objects[0].attributes.category}s"
    others = (
        # The fourth text of a mask has a wrong colour.
        said(one, image.expressions[3 * (image.position % 2)].text, source="composer", kind="position"),
        said(one, both, source="composer", kind="group", target_mask_ids=(one, two)),
        said(one, "the mushroom", source="composer", kind="none", target_mask_ids=()),
        said(one, "a thing", source="human"),
    )
    return replace(image, expressions=(*image.expressions, *others))


def test_every_figure_of_a_run_is_what_the_plainest_code_finds(tmp_path):
    known = scenes(9)
    location = RunLocation.open(str(tmp_path / "run"))
    scene_run(location, known, per_shard=4, change=lambda image: with_others(image, known[image.key]))
    due = plain_figures(location, known)
    found = evaluate_run(location, SceneTruth.from_json(truth_bytes(known), "truth.json"))
    values = {f"{name}.{figure}": found.sets[name][figure].value for name in SETS for figure in FIGURES}
    values |= {f"masks.{figure}": found.mask_quality[figure].value for figure in MASK_FIGURES}
    values |= {f"difficulty.{name}": part.accuracy.value for name, part in found.difficulty.items() if part.expressions}
    values |= {f"group.{name}": part.accuracy.value for name, part in found.groups.items() if part.expressions}
    values |= {f"kind.{name}": part.accuracy.value for name, part in found.kinds.items() if part.expressions}
    assert values == pytest.approx(due)
    assert all(0 < due[f"kind.{name}"] < 1 for name in ("attribute", "position", "group", "none"))
    assert 0 < due["kept.accuracy"] < 1
    assert 0 < due["masks.recall_75"] < due["masks.recall_50"] < 1


def images(right, total=10):
    return [{"a": (float(r), float(total)), "b": (float(r) - 1, float(total))} for r in right]


def plain_ratios(sums, name, *, seed=0):
    """Return the figure of each resample, as its definition has it."""
    table = np.array([each.get(name, (0.0, 0.0)) for each in sums])
    draws = np.random.default_rng(seed).integers(len(sums), size=(RESAMPLES, len(sums)))
    top, bottom = table[draws].sum(1).T
    return np.array([t / b if b else np.nan for t, b in zip(top, bottom, strict=True)])


# All resamples of a few images are one block. Of 2,200 they are two.
@pytest.mark.parametrize("num_images", [37, 2_200])
def test_the_seed_decides_the_resamples(num_images):
    sums = images(np.random.default_rng(2).random(num_images))
    found = {seed: ImageBootstrap(sums, seed=seed).ratio("a") for seed in (0, 3)}
    assert found[0] != found[3]
    for seed, estimate in found.items():
        due = np.quantile(plain_ratios(sums, "a", seed=seed), (0.025, 0.975))
        assert (estimate.low, estimate.high) == pytest.approx(tuple(due))


PAIR = st.tuples(st.integers(0, 9), st.integers(0, 9)).map(lambda pair: (float(min(pair)), float(max(pair))))
IMAGE = st.dictionaries(st.sampled_from("abc"), PAIR)


@pytest.mark.slow
@given(st.lists(IMAGE, min_size=1, max_size=12).filter(lambda each: any(each)))
def test_value_and_interval_are_those_of_the_definition(sums):
    bootstrap = ImageBootstrap(sums)
    for name in bootstrap.names:
        top, bottom = bootstrap.total(name)
        assert (top, bottom) == tuple(np.sum([each.get(name, (0.0, 0.0)) for each in sums], axis=0))
        found, resampled = bootstrap.ratio(name), plain_ratios(sums, name)
        counted = resampled[np.isfinite(resampled)]
        due = np.quantile(counted, (0.025, 0.975)) if len(counted) else (np.nan, np.nan)
        assert (found.low, found.high) == pytest.approx(tuple(due), nan_ok=True)
        assert found.value == pytest.approx(top / bottom if bottom else np.nan, nan_ok=True)
