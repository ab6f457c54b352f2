"""Does it pay to hold colour words against pixels (`composing.has_colours`)? In the world of everyday things.

`python -m evidence.experiments.composing.everyday_colours --images 60 --first 7000 --json FILE`. The pixels are noisy:
each name that a mask lacks has a part of them by chance, and of some masks light hides the own colour.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from evidence.experiments.composing.everyday_truth import Thing
from evidence.experiments.composing.everyday_world import Condition, World, sums_of
from evidence.experiments.composing.photographs import run_config
from evidence.experiments.quality.markdown_cells import cell, differences, markdown_table, paired, ratios
from pseudoris.primitives.attribute_slots import pixel_names
from pseudoris.primitives.pixel_colours import NAMES
from pseudoris.schemas.estimate import Sums
from pseudoris.workers.composing.composer import composer_of

_SYSTEMATIC: Final = (0.0, 0.04, 0.08)
_BACKGROUND: Final = 0.06
_FIGURES: Final = ("one mask.right", "yield", "coverage")
# So many names have pixels by chance, up to this share, and so many colours of a thing are hidden.
_BY_CHANCE, _MOST, _HIDDEN = 0.4, 0.4, 0.05


def shares(thing: Thing | None, draw: random.Random) -> tuple[float, ...]:
    """Return the shares of a mask's pixels that may have each of `NAMES`; background has any colour."""
    of_thing = [] if thing is None else [ways[0] for ways in thing.looks.values()]
    own = [names for way in of_thing for names in pixel_names(way)] or [(draw.choice(NAMES),)]
    found = {name: draw.uniform(0.0, _MOST) if draw.random() < _BY_CHANCE else 0.0 for name in NAMES}
    for names in own:
        found[names[0]] = 0.0 if draw.random() < _HIDDEN else found[names[0]] + draw.uniform(0.4, 0.9) / len(own)
    return tuple(min(1.0, round(found[name], 3)) for name in NAMES)


def main(
    images: Annotated[int, typer.Option(min=1, help="How many images of each condition.")] = 60,
    first: Annotated[int, typer.Option(min=0, help="The seed of the first image.")] = 7_000,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Print what is right with colours and without, and the difference, paired over images."""
    asked = {name: f"composing.has_colours={name == 'with'}" for name in ("with", "without")}
    composers = {
        name: composer_of(run_config("base-composed", [each], [], is_taught=False)) for name, each in asked.items()
    }
    world, tree, rows = World(), dict[str, Any](), list[tuple[str, ...]]()
    for share in _SYSTEMATIC:
        sums: dict[str, list[Sums]] = {name: [] for name in composers}
        for seed in range(first, first + images):
            drawn, draw = world.draw(seed, Condition(_BACKGROUND, share)), random.Random(f"pixels {seed}")
            things = [None if number is None else drawn.things[number] for number in drawn.of_mask]
            of_mask = zip(drawn.image.masks, things, strict=True)
            masks = tuple(replace(mask, colours=shares(thing, draw)) for mask, thing in of_mask)
            for name, composer in composers.items():
                sums[name].append(sums_of(drawn, composer(replace(drawn.image, masks=masks))))
        found = paired(sums)
        of_share = {name: ratios(found, name, _FIGURES) for name in composers}
        of_share["difference"] = differences(found, "with", "without", _FIGURES)
        tree[f"{share:.0%}"] = of_share
        rows += [
            (f"{share:.0%}", name, *(cell(each[figure], sign="+" * (name == "difference")) for figure in _FIGURES))
            for name, each in of_share.items()
        ]
    typer.echo(markdown_table(("masks with errors", "colours", *_FIGURES), rows))
    if json_path is not None:
        facts = {"images": images, "first": first, "background": _BACKGROUND}
        json_path.write_text(json.dumps({**facts, "conditions": tree}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
