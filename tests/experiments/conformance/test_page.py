"""The page is what is generated, and every row of it holds."""

import ast
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest
from pydantic import BaseModel

from experiments.conformance.arms import ARMS, ARMS_BY_NAME
from experiments.conformance.page import PAGE, elements, render, value_at
from pseudoris.schemas.config_layers import load_config
from pseudoris.training.ppt.ppt_config import load_ppt_config
from pseudoris.training.ppt.recipes.recipe_config import load_recipe_config

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
    "a second opinion, which the paper has not and no preset asks": ("grounding_check",),
    "the digest that a file of weights must have": ("*.weights.sha256",),
    "what follows from SAM's architecture on the page: its published weights": (
        *(f"{at}.weights.uri" for at in ("masks", "ppt:sam", "recipes:run.masks")),
    ),
    "the machine: what computes, and how much at once": (
        *("compute.device", "compute.threads", "compute.is_compiled", "shards.*", "placement.*"),
        *("masks.points_per_batch", "captions.cache_bytes", "captions.crops_together", "filtering.batch_size"),
        *("ppt:data.num_workers", "ppt:data.cache_bytes", "ppt:data.max_memory_bytes", "ppt:data.moved"),
        *("ppt:training.device", "ppt:training.num_devices", "ppt:training.num_threads", "ppt:data.on_bad_image"),
    ),
    "checkpoints and reports": tuple(f"ppt:training.{name}_every" for name in ("checkpoint", "validate", "log")),
    "seeds": ("compute.seed", "ppt:training.seed", "recipes:compose.seed"),
    "off in `paper`: no crop layer, no reduction beside a prior, a plain mean, regression, one peak": (
        *("masks.crop_nms_thresh", "masks.crop_overlap_ratio", "masks.crop_n_points_downscale_factor"),
        *("masks.reduction.*", "ppt:generator.peak_radius"),
        *(f"recipes:grounding.{name}" for name in ("num_points", "high", "low")),
        "recipes:pairs.min_peak",
    ),
    "the rows of the curriculum say it": ("ppt:curriculum.phases", "ppt:training.num_steps"),
}


def named(element) -> str:
    return element.name


@cache
def functions_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_the_page_is_what_is_generated() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run `python -m experiments.conformance`"


@pytest.mark.parametrize("element", EXACT, ids=named)
def test_an_exact_element_has_its_value_in_paper_and_a_test_that_exists(element) -> None:
    assert element.settings or element.ours
    assert {path: value_at("paper", path) for path in element.settings} == element.settings
    path, _, test = element.proof.partition("::")
    assert test in functions_in(ROOT / path)
    assert not element.unmeasured


@pytest.mark.parametrize("element", DECLARED, ids=named)
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
