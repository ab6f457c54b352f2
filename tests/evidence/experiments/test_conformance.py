"""The page of conformance is what is generated and every row of it holds; what an arm counts, by hand."""

import ast
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel

from evidence.experiments.conformance.arm_counts import (
    GREY_RGB,
    ArmCounter,
    chances,
    changed_crops,
    with_short_boxes,
    write_instances,
)
from evidence.experiments.conformance.arms import (
    ARMS,
    ARMS_BY_NAME,
    NUM_SCENES,
    PLAIN,
    ArmCounts,
    difference,
    extended,
    missing,
    read_record,
    write_record,
)
from evidence.experiments.conformance.page import PAGE, elements, render, value_at
from evidence.recipes.scene_shards import scene_image, scene_shard
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.shard import CaptionSample, ExpressionRecord
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.training.ppt.ppt_config import load_ppt_config
from pseudoris.training.ppt.recipes.recipe_config import load_recipe_config
from pseudoris.workers.crops import crops
from pseudoris.workers.masks.instances import read_instance_table

ROOT = Path(__file__).parents[3]
ELEMENTS = list(elements())
EXACT = [each for each in ELEMENTS if each.verdict == "exact"]
DECLARED = [each for each in ELEMENTS if each.verdict == "declared"]
# Settings that need no row, by the reason: no paper says anything about them, or the page says it in words.
NO_ROWS = {
    "names": ("preset", "ppt:preset"),
    "the built-in engines, which the rows describe, and settings of others": ("*.engine", "*.options"),
    "what is read, and the limits of what is read": (
        "source.*",
        "images.*",
        "masks.prior.path",
        "*.weights.how_to_get",
    ),
    "a second opinion of older runs, which the paper has not": ("grounding_check",),
    "the digest that a file of weights must have": ("*.weights.sha256",),
    "what follows from SAM's architecture on the page: its published weights": (
        *(f"{at}.weights.uri" for at in ("masks", "ppt:sam", "recipes:run.masks")),
    ),
    "the machine: what computes, and how much at once": (
        *(
            "compute.device",
            "compute.threads",
            "compute.is_compiled",
            "captions.decoder",
            "captions.slots",
            "shards.*",
            "placement.*",
        ),
        *("masks.points_per_batch", "captions.cache_bytes", "captions.crops_together", "filtering.batch_size"),
        *("ppt:data.num_workers", "ppt:data.cache_bytes", "ppt:data.max_memory_bytes", "ppt:data.moved"),
        *("ppt:training.device", "ppt:training.num_devices", "ppt:training.num_threads", "ppt:data.on_bad_image"),
    ),
    "checkpoints and reports": tuple(f"ppt:training.{name}_every" for name in ("checkpoint", "validate", "log")),
    "seeds": ("compute.seed", "ppt:training.seed", "recipes:compose.seed"),
    "off in `paper`: no crop layer, no reduction beside a prior, a plain mean, regression, one peak, no whole image": (
        "captions.whole_picture",
        *("masks.crop_nms_thresh", "masks.crop_overlap_ratio", "masks.crop_n_points_downscale_factor"),
        *("masks.reduction.*", "ppt:generator.peak_radius"),
        *(f"recipes:grounding.{name}" for name in ("num_points", "high", "low")),
        "recipes:pairs.min_peak",
    ),
    "the rows of the curriculum say it": ("ppt:curriculum.phases", "ppt:training.num_steps"),
}


@cache
def functions_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_the_page_is_what_is_generated() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run `python -m evidence.experiments.conformance`"


@pytest.mark.parametrize("element", EXACT, ids=lambda element: element.name)
def test_an_exact_element_has_its_value_in_paper_and_a_test_that_exists(element) -> None:
    assert element.settings or element.ours
    assert {path: value_at("paper", path) for path in element.settings} == element.settings
    path, _, test = element.proof.partition("::")
    assert test in functions_in(ROOT / path)
    assert not element.unmeasured


@pytest.mark.parametrize("element", DECLARED, ids=lambda element: element.name)
def test_a_declared_element_says_what_it_changes_or_why_that_is_not_measured(element) -> None:
    assert element.settings or element.ours
    assert not element.proof
    assert bool(element.arms) != bool(element.unmeasured)


def keys_of(tree: BaseModel, prefix: str) -> Iterator[str]:
    for name in type(tree).model_fields:
        value = getattr(tree, name)
        yield from keys_of(value, f"{prefix}{name}.") if isinstance(value, BaseModel) else (f"{prefix}{name}",)


def keys_of_paper() -> list[str]:
    recipes = load_recipe_config("paper")
    # Of the run's settings a recipe reads these alone, beside what is of the machine.
    models = [(recipes.run.masks, "masks"), (recipes.run.filtering, "filtering")]
    return [
        *keys_of(load_config("paper"), ""),
        *keys_of(load_ppt_config("paper"), "ppt:"),
        *(
            key
            for name in ("grounding", "compose", "pairs")
            for key in keys_of(getattr(recipes, name), f"recipes:{name}.")
        ),
        *(f"recipes:run.{section}.weights.uri" for _, section in models),
        "recipes:run.filtering.architecture",
        "recipes:run.masks.architecture",
    ]


def test_every_setting_of_paper_is_on_the_page_or_needs_no_row() -> None:
    on_page = {path for element in ELEMENTS for path in element.settings}
    patterns = [pattern for group in NO_ROWS.values() for pattern in group]
    keys = keys_of_paper()

    assert not [key for key in keys if key not in on_page and not any(fnmatch(key, each) for each in patterns)]
    # What was renamed or removed leaves the list.
    assert not [each for each in patterns if not any(fnmatch(key, each) for key in keys)]


def test_every_arm_that_is_named_is_one() -> None:
    assert {name for element in ELEMENTS for name in element.arms} <= set(ARMS_BY_NAME)
    assert all(arm.against in ARMS_BY_NAME for arm in ARMS)


SEED = ARMS_BY_NAME["seed"]
SCENES = ((2.0, 4, 2), (3.0, 3, 1))


def test_counts_come_back_and_go_on_where_they_stopped(tmp_path) -> None:
    counted = extended(extended({}, SEED, SCENES[:1]), SEED, SCENES[1:])
    write_record(counted, tmp_path / "record.json")
    found = read_record(tmp_path / "record.json")
    assert found == {"seed": ArmCounts(SEED.digest(), SCENES)}
    assert list(missing(found, SEED, 4)) == [2, 3]


def test_there_is_no_difference_before_all_scenes_are_counted() -> None:
    whole = ArmCounts("", ((2.0, 4, 2), (3.0, 4, 2)) * (NUM_SCENES // 2))
    assert difference({PLAIN: whole, "seed": whole}, SEED) is not None
    assert difference({PLAIN: whole, "seed": ArmCounts("", SCENES)}, SEED) is None


@pytest.fixture(scope="module")
def scene():
    return scene_image(make_scene(Split.TEST, 0))


@pytest.fixture(scope="module")
def image(scene):
    return scene_shard([scene], with_true_masks=True).images[0]


def candidate(mask: str, text: str, *, draws: int = 1, correctness: float = 0.5, kept: bool = False):
    sample = CaptionSample("masked", "top_k", 5, None, -1.0)
    return ExpressionRecord((mask,), text, samples=(sample,) * draws, correctness=correctness, kept=kept)


def test_the_authors_draw_by_repeats_and_any_caption_where_none_is_kept(image) -> None:
    first, second = (mask.mask_id for mask in image.masks[:2])
    expressions = (
        candidate(first, "a", draws=3, kept=True),
        candidate(first, "b", kept=True),
        candidate(first, "c"),
        candidate(second, "d", draws=4),
        candidate(second, "e"),
    )
    scored = replace(image, expressions=expressions)
    assert chances(scored, first, "repeats").tolist() == [0.75, 0.25, 0, 0, 0]
    assert chances(scored, second, "repeats").tolist() == [0, 0, 0, 0.8, 0.2]
    assert chances(scored, first, "distinct").tolist() == [0.5, 0.5, 0, 0, 0]
    assert chances(scored, second, "distinct").sum() == 0
    assert chances(scored, first, "kept_repeats").tolist() == [0.75, 0.25, 0, 0, 0]
    assert chances(scored, second, "kept_repeats").sum() == 0


def test_of_a_lone_mask_the_authors_draw_the_better_half(image) -> None:
    mask = image.masks[0].mask_id
    expressions = (candidate(mask, "a", draws=2, correctness=0.9), candidate(mask, "b", draws=2, correctness=0.1))
    scored = replace(image, masks=image.masks[:1], expressions=expressions)
    assert chances(scored, mask, "repeats").tolist() == [1, 0]


def test_a_short_box_ends_one_pixel_before_and_keeps_a_pixel(image) -> None:
    shard = scene_shard([])
    thin = replace(image.masks[0], box_xyxy_px=(3, 4, 4, 9))
    shard = shard.with_images((replace(image, masks=(thin,)),))
    assert with_short_boxes(shard).images[0].masks[0].box_xyxy_px == (3, 4, 4, 8)


def test_grey_fill_lasts_as_long_as_the_arm() -> None:
    before = crops.FILL_RGB
    with changed_crops("grey"):
        assert crops.FILL_RGB == GREY_RGB
    assert before == crops.FILL_RGB


def test_the_instances_of_a_scene_are_its_visible_objects(scene, image, tmp_path) -> None:
    write_instances([scene], tmp_path / "instances.parquet")
    table = read_instance_table(str(tmp_path / "instances.parquet"), 0.5)
    found = table.instances(image.image_id, image.key, (192, 192))
    assert list(found.counts) == [mask.rle_counts for mask in image.masks]
    assert len(found.counts) == int(np.any(scene.masks, axis=(1, 2)).sum())


@pytest.mark.slow
def test_arms_of_one_annotation_count_the_same_masks() -> None:
    counter = ArmCounter()
    ((right, kept, masks),) = counter.count(ARMS_BY_NAME["plain"], range(1))
    ((chance, drawn, same),) = counter.count(ARMS_BY_NAME["distinct_draw"], range(1))
    assert 0 < right <= kept
    assert 0 < chance <= drawn <= masks == same
