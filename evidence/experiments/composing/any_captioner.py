"""What the composer's weights are worth with a captioner that they were not fitted to, on drawn scenes.

`python -m evidence.experiments.composing.any_captioner`: each of four captioners is left out in turn. Its captions are
composed with weights that were fitted, with labels, to the other three ("any captioner"), the same in the units of the
run, its own, those of one other captioner, and with all weights 1. `--fit` prints what is shipped, from all four.
`--captioner words --counts draws` is of a captioner by plug-in (`word_captioner`), to which nothing shipped was fitted.

Choices are made on development scenes of other worlds; `--split test --first 80000 --world fifth` is for the report.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final, get_args

import typer
import yaml

from evidence.experiments.composing.posterior_fit import fitted_weights
from evidence.experiments.composing.squeezed_tables import SQUEEZES
from evidence.experiments.listener.judged_scenes import Composed
from evidence.experiments.quality.annotated_scenes import LISTENED, SceneSet, Setting, annotated_scenes
from evidence.experiments.quality.markdown_cells import cell, differences, markdown_table, paired, ratios
from evidence.experiments.quality.parts import Options
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.estimate import ImageBootstrap
from pseudoris.schemas.fitted import Counted, PosteriorConfig, for_any_captioner
from pseudoris.schemas.shard import ShardImage
from pseudoris.synthworld.scene_truth import SceneImageTruth
from pseudoris.synthworld.scenes import Split
from pseudoris.training.calibration.run_units import corrected
from pseudoris.workers.composing.composer import Composer, composer_of

_FOLDER: Final = Path(__file__).parent / "captioners"
CAPTIONERS: Final[Mapping[str, str]] = {
    "coca_longer": "builtin:tiny/coca_longer.safetensors",
    "coca": "builtin:tiny/coca.safetensors",
    # Of another kind: other frames, clauses, scenery, and errors that are not uniform
    # (`evidence.recipes.caption_styles`).
    "coca_clauses": str(_FOLDER / "coca_clauses.safetensors"),
    "coca_brief": str(_FOLDER / "coca_brief.safetensors"),
}
# By plug-in, without a listener; its CLIP is not the scorer's.
PLUG_IN: Final = "words"
_WORDS: Final = (
    "filtering.tau=0",
    "captions.engine=words",
    "captions.architecture=builtin:tiny/clip.json",
    f"captions.weights={{uri: {_FOLDER / 'clip_names.safetensors'}}}",
)
COMPOSING: Final = composer_of(load_config("tiny-composed")).config
# What weights are fitted to: development scenes of three worlds.
FITTED_SCENES: Final = (("default", 100), ("second", 60), ("shifted", 60))
OWN, ANY, UNITS, OTHER, ONES = "own", "any captioner", "… in its units", "other", "ones"
# Chosen on development scenes of `second` with each captioner left out: the expected calibration error is 0.034. It is
# 0.053 at 0.07, as of `tiny`, and 0.025 at 0, where nothing is left for scenes that are harder.
_UNSEEN: Final = 0.02
_COLUMNS: Final = (
    *("accuracy", "yield", "coverage", "accuracy - own", "coverage - own"),
    *("calibration error", "after 200 verdicts", "yield beside unchanged"),
)
# Below every bound that is compared.
_LOW: Final = 0.2
_WEIGHT: Final[dict[str, Any]] = dict.fromkeys(set(PosteriorConfig.model_fields) - {"counts", "unseen", "names"}, 1.0)


def compose(
    truths: Sequence[SceneImageTruth],
    images: Sequence[ShardImage],
    posterior: PosteriorConfig,
    bound: float | None = None,
    *,
    num_targets: int = 1,
) -> Composed:
    """Return what the composer says, as `tiny-composed` composes, or above another bound."""
    bounds = {} if bound is None else {"min_first": bound, "min_further": bound}
    composer = Composer(COMPOSING.model_copy(update=bounds), posterior)
    return Composed.of(truths, images, composer, num_targets)


def setting_of(captioner: str) -> Setting:
    """Return the setting that annotates with a captioner and its listener."""
    if captioner == PLUG_IN:
        # Here are the entry points of its package, as pip would have put them.
        sys.path += [] if str(_FOLDER) in sys.path else [str(_FOLDER)]
        return replace(LISTENED, name=captioner, assignments=_WORDS)
    weights = f"captions.weights={{uri: {CAPTIONERS[captioner]}}}"
    return replace(LISTENED, name=captioner, assignments=(*LISTENED.assignments, weights))


def fitted_to(options: Options, captioners: Sequence[str], counts: Counted) -> PosteriorConfig:
    """Return the weights that fit development scenes of some captioners, with all labels."""
    scenes, images = [], []
    for captioner in captioners:
        for world, count in FITTED_SCENES:
            asked = SceneSet(Split.DEVELOPMENT, count, world)
            scenes += asked.all()
            images += annotated_scenes(options, asked, setting_of(captioner))
    return fitted_weights(scenes, images, counts, is_nested=True).model_copy(update={"unseen": _UNSEEN})


def rows_of(options: Options, captioner: str, asked: SceneSet, counts: Counted) -> dict[str, Any]:
    """Return the figures of a captioner that is left out, by the weights that compose its captions."""
    others = [each for each in CAPTIONERS if each != captioner]
    images = annotated_scenes(options, asked, setting_of(captioner))
    shipped = PosteriorConfig(**for_any_captioner(is_heard=counts == "probability")["values"]["posterior"])
    transferred = shipped if captioner == PLUG_IN else fitted_to(options, others, counts)
    weights = {
        OWN: fitted_to(options, [captioner], counts),
        ANY: transferred,
        UNITS: corrected(transferred, images),
        **({} if captioner == PLUG_IN else {OTHER: fitted_to(options, others[:1], counts)}),
        ONES: PosteriorConfig(counts=counts, unseen=transferred.unseen, **{**_WEIGHT, "object_overlap": -1.0}),
    }
    truths = [SceneImageTruth(scene) for scene in asked.all()]
    said = {name: compose(truths, images, each) for name, each in weights.items()}
    # At the bound where they say as much as its own weights.
    number = len(said[OWN].scene)
    many = {name: compose(truths, images, each, _LOW) for name, each in weights.items()}
    found = paired(
        {name: each.sums() for name, each in said.items()}
        | {f"{name} at yield": each.sums(each.bound_at(number)) for name, each in many.items()}
    )
    tree = {name: _row(found, name, each) for name, each in said.items()}
    for name, change in SQUEEZES.items():
        changed = [change(image) for image in images]
        other = compose(truths, changed, corrected(transferred, changed))
        kept = round(len(other.scene) / max(1, len(said[UNITS].scene)), 3)
        tree[name] = {**ratios(paired({"all": other.sums()}), "all"), "yield beside unchanged": kept}
    return tree


def _row(found: ImageBootstrap, name: str, said: Composed) -> dict[str, Any]:
    beside = differences(found, f"{name} at yield", f"{OWN} at yield")
    return {
        **ratios(found, name),
        **{f"{figure} - own": difference for figure, difference in beside.items()},
        "calibration error": round(said.calibration_error(), 4),
        "after 200 verdicts": round(said.after_verdicts(), 4),
    }


def _cell(figure: Any) -> str:
    if isinstance(figure, Mapping):
        return cell(figure) if "low" in figure else " / ".join(f"{each:.3f}" for each in figure.values())
    return "" if figure is None else f"{figure:.3f}"


def main(
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    world: Annotated[str, typer.Option(help="The world of the scenes.")] = "second",
    split: Annotated[Split, typer.Option(help="Choose on development, report on test.")] = Split.DEVELOPMENT,
    first: Annotated[int, typer.Option(min=0, help="Position of the first scene.")] = 80,
    scenes: Annotated[int, typer.Option(min=1, help="How many scenes.")] = 60,
    captioners: Annotated[
        list[str] | None, typer.Option("--captioner", help="One to leave out; all by default.")
    ] = None,
    cache: Annotated[Path, typer.Option(help="Where annotated scenes are kept.")] = Path("bench-out/composing"),
    processes: Annotated[int, typer.Option(min=1, help="To annotate what the cache lacks.")] = 2,
    fits: Annotated[bool, typer.Option("--fit", help="Print the weights for any captioner that are shipped.")] = False,
    counts: Annotated[str, typer.Option(help="draws, or probability, which a listener gives.")] = "probability",
) -> None:
    """Print what weights are worth with each captioner that is left out."""
    options, asked = Options(cache, processes=processes), SceneSet(split, scenes, world, first=first)
    counted: Counted = next(each for each in get_args(Counted) if each == counts)
    if fits:
        typer.echo(yaml.safe_dump({"posterior": fitted_to(options, list(CAPTIONERS), counted).model_dump()}))
        return
    tree: dict[str, Any] = {}
    for captioner in captioners or CAPTIONERS:
        tree[captioner] = rows_of(options, captioner, asked, counted)
        rows = [(name, *(_cell(row.get(column)) for column in _COLUMNS)) for name, row in tree[captioner].items()]
        typer.echo(markdown_table((captioner, *_COLUMNS), rows))
    if json_path is not None:
        facts = {"world": world, "split": split.value, "first": first, "scenes": scenes, "counts": counts}
        json_path.write_text(json.dumps({**facts, "captioners": tree}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
