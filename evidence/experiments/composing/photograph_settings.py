"""What the settings by which `base-composed` composes photographs would give `tiny-composed`, on drawn scenes.

`python -m evidence.experiments.composing.photograph_settings --scenes 200 [--json FILE]`. All arms have the same masks,
captions and scores; differences are paired over scenes. Bounds of absences and of further texts are settings too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from evidence.experiments.composing.groups_and_absences import PRESET, SETTING
from evidence.experiments.oracle import candidates_of
from evidence.experiments.quality.annotated_scenes import SceneSet, Setting, annotated_scenes
from evidence.experiments.quality.markdown_cells import TRIPLE, cell, differences, markdown_table, paired, ratios
from evidence.experiments.quality.parts import Options
from evidence.recipes.scene_shards import scene_image
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.estimate import Sums
from pseudoris.schemas.shard import SOURCE_COMPOSER, Shard, ShardImage
from pseudoris.synthworld.scene_truth import SceneImageTruth
from pseudoris.synthworld.scenes import Scene, Split
from pseudoris.training.evaluation.truth import count_image
from pseudoris.workers.composing.composer import Composer
from pseudoris.workers.filtering.mask_colours import with_colours

AS_IS, COMPOSING, BOUNDS = "as it is", "all settings of composing", "… with its own bounds"
WEIGHTS, WHOLE = "… and weights", "… and captions of the whole picture"
# Each alone over the preset.
_ALONE: Final = ("places", "has_needed_words", "has_too_small", "has_colours")
_BASE, _OWN = load_config("base-composed"), load_config(PRESET)
# As the preset annotates, with what the settings of photographs ask besides.
_ASKED: Final[Setting] = replace(
    SETTING,
    name="photograph-settings",
    assignments=(
        *SETTING.assignments,
        f"filtering.fitted={{uri: {_OWN.filtering.fitted.uri}}}" if _OWN.filtering.fitted else "",
        'filtering.keep=["confidence > 0.94", "rank <= 3"]',
        f"captions.whole_picture={_BASE.captions.whole_picture}",
        "composing.has_too_small=true",
    ),
)
_FIGURES: Final = (*TRIPLE, "absences right", "absences a mask", "groups right", "groups an image")


def composers() -> dict[str, Composer]:
    """Return the composer of each arm."""
    own, asked, weights = _OWN.composing, _BASE.composing, _OWN.filtering.fitted_values.posterior
    others = _BASE.filtering.fitted_values.posterior
    if own is None or asked is None or weights is None or others is None:
        raise ValueError("both presets compose")
    # What may be absent is what a drawing may hold.
    new = asked.model_copy(update={"bank": own.bank})
    bounds = {name: getattr(own, name) for name in ("min_first", "min_further", "min_group_or_none")}
    arms = {AS_IS: (own, weights)}
    arms |= {name: (own.model_copy(update={name: getattr(new, name)}), weights) for name in _ALONE}
    arms |= {COMPOSING: (new, weights), BOUNDS: (new.model_copy(update=bounds), weights)}
    arms |= dict.fromkeys((WEIGHTS, WHOLE), (new, others))
    return {name: Composer(*arm, seed=_OWN.compute.seed) for name, arm in arms.items()}


def sums_of(truth: SceneImageTruth, image: ShardImage) -> Sums:
    """Return the sums of what is kept of one mask, drawn and composed, and of composed groups and absences."""
    kept = count_image(truth, candidates_of(image, lambda each: each.kept and len(each.target_mask_ids) == 1))
    of_kinds = count_image(truth, candidates_of(image, lambda each: each.source == SOURCE_COMPOSER))
    absences, groups = (of_kinds.get(f"kind.{kind}", (0.0, 0.0)) for kind in ("none", "group"))
    of_several = (absences, (absences[1], float(len(image.masks))), groups, (groups[1], 1.0))
    return dict(zip(_FIGURES, (*(kept[f"kept.{figure}"] for figure in TRIPLE), *of_several), strict=True))


def _shown(scenes: list[Scene], images: list[ShardImage]) -> Iterator[ShardImage]:
    """Yield the images with the colours of their masks."""
    for scene, image in zip(scenes, images, strict=True):
        (shown,) = with_colours(_OWN.compute, Shard(0, 0, (replace(image, data=scene_image(scene).data),))).images
        yield shown


def main(
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    world: Annotated[str, typer.Option(help="The world of the scenes.")] = "fourth",
    first: Annotated[int, typer.Option(min=0, help="Position of the first scene.")] = 40_000,
    scenes: Annotated[int, typer.Option(min=1, help="How many test scenes.")] = 200,
    cache: Annotated[Path, typer.Option(help="Where annotated scenes are kept.")] = Path("bench-out/composing"),
    processes: Annotated[int, typer.Option(min=1, help="To annotate what the cache lacks.")] = 1,
) -> None:
    """Print the figures of each arm, and the differences from the preset."""
    asked = SceneSet(Split.TEST, scenes, world, first=first)
    drawn = asked.all()
    images = list(_shown(drawn, annotated_scenes(Options(cache, processes=processes), asked, _ASKED)))
    truths, sums = [SceneImageTruth(scene) for scene in drawn], dict[str, list[Sums]]()
    for name, composer in composers().items():
        given = images if name == WHOLE else [replace(image, whole_picture=()) for image in images]
        sums[name] = [sums_of(truth, composer(image)) for truth, image in zip(truths, given, strict=True)]
    found = paired(sums)
    tree: dict[str, Any] = {name: ratios(found, name, _FIGURES) for name in sums}
    rows = [(name, *(cell(row[figure]) for figure in _FIGURES)) for name, row in tree.items()]
    for name in list(tree)[1:]:
        tree[f"{name} - {AS_IS}"] = differences(found, name, AS_IS, _FIGURES)
        rows.append((f"{name}, difference", *(cell(tree[f"{name} - {AS_IS}"][each], sign="+") for each in _FIGURES)))
    typer.echo(markdown_table((world, *_FIGURES), rows))
    if json_path is not None:
        facts = {"world": world, "split": "test", "first": first, "scenes": scenes}
        json_path.write_text(json.dumps({**facts, "arms": tree}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
