"""How often composed groups and absences are right: `python -m evidence.experiments.composing.groups_and_absences`.

The preset `tiny-composed` composes for scenes at several bounds, and the oracle of the drawn worlds judges: a group is
right if its text means exactly the objects of its masks, an absence if it means nothing. Bounds are chosen on
development scenes (`--first 200`). `--split test --first 70000`, which no choice was made on, is for the one report.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from evidence.experiments.oracle import judged
from evidence.experiments.quality.annotated_scenes import LISTENED, SceneSet, annotated_scenes
from evidence.experiments.quality.markdown_cells import as_json, cell, markdown_table, value
from evidence.experiments.quality.parts import Options
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.estimate import ImageBootstrap
from pseudoris.schemas.shard import SOURCE_COMPOSER, ExpressionRecord, ShardImage
from pseudoris.synthworld.scene_truth import SceneImageTruth
from pseudoris.synthworld.scenes import DEFAULT_WORLD, Scene, Split
from pseudoris.workers.composing.composer import Composer, composer_of

PRESET: Final = "tiny-composed"
GROUP, NONE, NEAR, EASY = "group", "none", "none, near", "none, easy"
KINDS: Final = (GROUP, NONE, NEAR, EASY)
# Values of `min_further`, the least probability of a group and of an absence.
BOUNDS: Final = (0.5, 0.7, 0.8, 0.85, 0.9, 0.92, 0.94)
# The same captions, and the same scores but for the rule that keeps, which the composer does not read.
_CAPTIONER: Final = f"captions.weights={{uri: {load_config(PRESET).captions.weights.uri}}}"
SETTING: Final = replace(LISTENED, assignments=(*LISTENED.assignments, _CAPTIONER))


def curve(scenes: Sequence[Scene], images: Sequence[ShardImage]) -> list[dict[str, Any]]:
    """Return accuracy and yield as the preset composes, then at each `bound` of `BOUNDS`; scenes are resampled.

    By kind of `KINDS`: its accuracy, and how many a mask (absences) or an image (groups).
    """
    # One a scene: it paints its masks, and reads each text, once.
    truths = [SceneImageTruth(scene) for scene in scenes]
    rows = [{"bound": bound, "kinds": _figures(truths, images, _composer(bound))} for bound in BOUNDS]
    return [{"kinds": _figures(truths, images, composer_of(load_config(PRESET)))}, *rows]


def _composer(bound: float) -> Composer:
    config = load_config(PRESET)
    whole = composer_of(config)
    if config.composing is None:
        raise ValueError(f"the preset {PRESET} does not compose")
    # Groups and absences are made of phrases that are above `min_first`: it stays.
    bounds = {"kinds": (GROUP, NONE), "min_further": bound}
    return Composer(config.composing.model_copy(update=bounds), whole.posterior, seed=config.compute.seed)


def _figures(
    truths: Sequence[SceneImageTruth], images: Sequence[ShardImage], composer: Composer
) -> dict[str, dict[str, Any]]:
    bootstrap = ImageBootstrap(dict(_sums(truth, composer(image))) for truth, image in zip(truths, images, strict=True))
    figures = {}
    for kind in KINDS:
        right, number = bootstrap.total(f"{kind}.accuracy")
        figures[kind] = {
            "right": round(right),
            "number": round(number),
            "accuracy": as_json(bootstrap.ratio(f"{kind}.accuracy")) if number else None,
            "yield": as_json(bootstrap.ratio(f"{kind}.yield")),
        }
    return figures


def _sums(truth: SceneImageTruth, image: ShardImage) -> Iterator[tuple[str, tuple[float, float]]]:
    said = [each for each in image.expressions if each.source == SOURCE_COMPOSER]
    verdicts = judged(truth, image, said)[1].is_right.tolist()
    for kind in KINDS:
        right = [is_right for is_right, each in zip(verdicts, said, strict=True) if kind in kinds_of(each)]
        yield f"{kind}.accuracy", (float(sum(right)), float(len(right)))
        yield f"{kind}.yield", (float(len(right)), 1.0 if kind == GROUP else float(len(image.masks)))


def kinds_of(expression: ExpressionRecord) -> tuple[str, ...]:
    """Return the names of `KINDS` that an expression counts under."""
    if expression.kind == NONE:
        return (NONE, EASY if expression.rival_mask_id is None else NEAR)
    return (GROUP,) if expression.kind == GROUP else ()


def _row(found: Mapping[str, Any]) -> list[str]:
    figures = [found["kinds"][kind] for kind in KINDS]
    said = (text for each in figures for text in (cell(each["accuracy"]), value(each["yield"], 2)))
    return [f"{found['bound']:g}" if "bound" in found else "preset", *said]


def main(
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    worlds: Annotated[list[str] | None, typer.Option("--world", help="A world; may be repeated.")] = None,
    split: Annotated[Split, typer.Option(help="Choose on development, report on test.")] = Split.DEVELOPMENT,
    first: Annotated[int, typer.Option(min=0, help="Position of the first scene.")] = 200,
    scenes: Annotated[int, typer.Option(min=1, help="How many scenes of each world.")] = 100,
    cache: Annotated[Path, typer.Option(help="Where annotated scenes are kept.")] = Path("bench-out/composing"),
    processes: Annotated[int, typer.Option(min=1, help="To annotate what the cache lacks.")] = 2,
) -> None:
    """Print accuracy against yield of groups and absences, world by world."""
    tree: dict[str, Any] = {"preset": PRESET, "split": split.value, "first": first, "scenes": scenes, "worlds": {}}
    for world in worlds or [DEFAULT_WORLD]:
        asked = SceneSet(split, scenes, world, first=first)
        images = annotated_scenes(Options(cache, processes=processes), asked, SETTING)
        found = curve(asked.all(), images)
        header = (text for kind in KINDS for text in (f"{kind}: accuracy", "an image" if kind == GROUP else "a mask"))
        typer.echo(markdown_table((world, *header), map(_row, found)))
        tree["worlds"][world] = found
    if json_path is not None:
        json_path.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
