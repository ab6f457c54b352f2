"""Writes the page of conformance: a table a section, and the table of what differences change.

The rows stand in `pseudo_ris.yaml` and `ppt.yaml`, a list of sections each. Our values are read from presets.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

import yaml

from evidence.experiments.conformance.arms import (
    ARMS,
    ARMS_BY_NAME,
    NUM_SCENES,
    Arm,
    ArmCounts,
    Difference,
    difference,
    read_record,
)
from evidence.experiments.quality import markdown_cells
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.fitted import FittedConfig
from pseudoris.training.ppt.ppt_config import load_ppt_config
from pseudoris.training.ppt.recipes.recipe_config import load_recipe_config

PAGE: Final = Path(__file__).parents[3] / "docs" / "records" / "conformance.md"
NOT_MEASURED: Final = "not yet measured"
_SAME: Final = "the same"
# By the prefix of a path.
_LOADERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "": load_config,
    "ppt": load_ppt_config,
    "recipes": load_recipe_config,
}


@dataclass(frozen=True)
class Element:
    """A row: a setting, formula, order or threshold of a paper or its scripts, and what ours is.

    Attributes:
        name: What it is.
        source: Section or equation of the paper, or the script.
        says: What the paper or the script says.
        settings: By path, its value there, or "not stated"; the page reads ours from the presets. A path of a PPT
            training begins with `ppt:`, of its recipes with `recipes:`.
        ours: What ours does in `paper`, where no setting says it.
        others: What it does in `base` and `tiny`, where that is another and no setting says it.
        proof: Of an exact element, `<file>::<test>`: it fails if the code departs.
        reason: Of a declared element, why ours is another.
        arms: Arms of the measurement that say what a difference changes.
        unmeasured: Of a declared element without an arm, why it cannot be measured.
    """

    name: str
    source: str
    says: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    ours: str = ""
    others: str = ""
    proof: str = ""
    reason: str = ""
    arms: Sequence[str] = ()
    unmeasured: str = ""

    @property
    def verdict(self) -> Literal["exact", "declared"]:
        """`declared` where a reason is given."""
        return "declared" if self.reason else "exact"


@dataclass(frozen=True)
class Section:
    """Elements that belong together; `other_presets` heads the column beside `paper`."""

    title: str
    elements: tuple[Element, ...]
    other_presets: str = "`base`, `tiny`"


def _sections(name: str) -> Iterator[Section]:
    for tree in yaml.safe_load((Path(__file__).parent / name).read_text(encoding="utf-8")):
        yield Section(**{**tree, "elements": tuple(Element(**row) for row in tree["elements"])})


SECTIONS: Final = (*_sections("pseudo_ris.yaml"), *_sections("ppt.yaml"))


def render(record: Mapping[str, ArmCounts] | None = None) -> str:
    """Return the page, of the counts that are recorded."""
    counted = read_record() if record is None else record
    found = {arm.name: difference(counted, arm) for arm in ARMS if arm.name != arm.against}
    said = {name: _change(ARMS_BY_NAME[name], change) for name, change in found.items()}
    values = {
        "num_scenes": NUM_SCENES,
        "verdicts": Counter(element.verdict for element in elements()),
        "sections": SECTIONS,
        "cells_of": lambda element: _row(element, said),
        "found": found,
        "arms": ARMS_BY_NAME,
        "code": lambda words: "<br>".join(f"`{word}`" for word in words),
        "figures": lambda change: [*_figures(change), ", ".join(f"{each:,}" for each in change.num_masks)],
        "not_measured": NOT_MEASURED,
    }
    return markdown_cells.render("conformance/page", values) + "\n"


def elements() -> Iterator[Element]:
    """Yield every element of the page."""
    for section in SECTIONS:
        yield from section.elements


def value_at(preset: str, path: str) -> Any:
    """Return the value of a setting in a preset, as JSON.

    Raises:
        AttributeError: The preset has no such setting.
    """
    family, _, names = path.rpartition(":")
    tree: Any = _loaded(family, preset)
    for name in names.split("."):
        tree = getattr(tree, name)
    # Of a file its name.
    return json.loads(json.dumps(tree.uri if isinstance(tree, FittedConfig) else tree))


@cache
def _loaded(family: str, preset: str) -> Any:
    return _LOADERS[family](preset)


def _row(element: Element, said: Mapping[str, str]) -> list[str]:
    name = element.name + "".join(f"<br>`{path}`" for path in element.settings)
    ours = [*_values("paper", element)] + ([element.ours] if element.ours else [])
    return [
        name,
        f"{element.says} ({element.source})",
        "<br>".join(ours),
        _other_presets(element),
        _verdict(element, said),
    ]


def _values(preset: str, element: Element) -> list[str]:
    return [_shown(value_at(preset, path)) for path in element.settings]


def _other_presets(element: Element) -> str:
    paper = _values("paper", element)
    if not paper:
        return element.others or _SAME
    # A training and its recipes have no `base`.
    presets = ("tiny",) if ":" in next(iter(element.settings)) else ("base", "tiny")
    others = {preset: _values(preset, element) for preset in presets}
    told = {preset: values for preset, values in others.items() if values != paper}
    if not told:
        return _SAME
    if len(told) == len(others) and all(values == others["tiny"] for values in others.values()):
        return "<br>".join(others["tiny"])
    return "<br>".join(f"{preset}: {', '.join(values)}" for preset, values in told.items())


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return f"[{', '.join(_shown(each) for each in value)}]" if value else "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _verdict(element: Element, said: Mapping[str, str]) -> str:
    changes = [said[name] for name in element.arms]
    if element.verdict == "exact":
        path, _, test = element.proof.partition("::")
        return "<br>".join([f"exact: [{test}](../../{path})", *changes])
    parts = [f"**declared**: {element.reason}.", *changes]
    return "<br>".join([*parts, f"Not measured: {element.unmeasured}."] if element.unmeasured else parts)


def _change(arm: Arm, found: Difference | None) -> str:
    if found is None:
        return f"*{NOT_MEASURED}*: {arm.title}."
    accuracy, yield_ = _figures(found)
    return f"{arm.title[:1].upper()}{arm.title[1:]}: accuracy {accuracy}, yield {yield_}."


def _figures(found: Difference) -> list[str]:
    return [each.text(3, sign="+") for each in (found.accuracy, found.yield_)]
