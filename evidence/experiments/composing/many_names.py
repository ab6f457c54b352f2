"""What composing is worth where a thing has several names: `python -m evidence.experiments.composing.many_names`.

Drawn scenes are annotated twice: by a captioner and a CLIP with one name a category, and by the same two after they
learnt three names each and four wider ones (`evidence.recipes.caption_styles`). The oracle reads each name as what it
is true of. The weights are those for any captioner, corrected on the run, with what it says of its nouns and without.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer

from evidence.experiments.composing.any_captioner import compose, setting_of
from evidence.experiments.quality.annotated_scenes import LISTENED, SceneSet, Setting, annotated_scenes
from evidence.experiments.quality.markdown_cells import TRIPLE, cell, differences, markdown_table, paired, ratios
from evidence.experiments.quality.parts import Options, draw_generator
from evidence.recipes.caption_styles import NAMES, WIDER_NAMES
from pseudoris.primitives.english import plural_of
from pseudoris.schemas.estimate import Sums
from pseudoris.schemas.fitted import PosteriorConfig, for_any_captioner
from pseudoris.schemas.shard import ShardImage
from pseudoris.synthworld.attributes import CATEGORIES, PLURALS
from pseudoris.synthworld.grammar import Extreme, Ordinal, parse_reference
from pseudoris.synthworld.scene_truth import SceneImageTruth, meant_among, row_of
from pseudoris.synthworld.scenes import Scene, Split
from pseudoris.training.calibration.run_units import corrected, noun_relations
from pseudoris.workers.composing.posterior import Evidence, drawn_by_mask, evidence_of

_FOLDER: Final = Path(__file__).parent / "captioners"
ONE, MANY, UNLEARNT = "one name", "several names", "several, nothing learnt"
_WEIGHTS: Final = {"captions": "coca_names", "filtering": "clip_names"}
SETTINGS: Final[dict[str, Setting]] = {
    ONE: setting_of("coca_longer"),
    MANY: replace(
        LISTENED,
        name="names",
        assignments=(
            *LISTENED.assignments,
            *(f"{stage}.weights={{uri: {_FOLDER / name}.safetensors}}" for stage, name in _WEIGHTS.items()),
        ),
    ),
}
_FIGURES: Final = (*TRIPLE, "absences")
_READ: Final = {
    form: category
    for first, names in NAMES.items()
    for name in names
    for form, category in ((name, first), (plural_of(name), PLURALS[first]))
}
# How often each of two confused nouns is drawn for the other's masks, and how many pairings are drawn.
PLANTED: Final = (0.05, 0.1, 0.2, 0.3)
_PAIRINGS: Final = 10
# Below this share of a mask's draws a noun is taken to be wrong.
_RARE: Final = 0.2


class NamedTruth(SceneImageTruth):
    """A scene's truth for texts with any of the names of its categories, and with wider ones."""

    def __init__(self, scene: Scene) -> None:
        """Takes a scene."""
        super().__init__(scene)
        self._drawn = scene

    def referents(self, text: str) -> frozenset[int] | None:
        """Return the objects that a text means; None if it cannot be decided."""
        words = [_READ.get(word, word) for word in text.split()]
        # A category that nothing has stands for a wider name, and has all that this is true of.
        used = {*words, *(item.attributes.category for item in self._drawn.objects)}
        free = [each for each in CATEGORIES if each not in used and PLURALS[each] not in used]
        scenes = {}
        for (wide, covered), category in zip(WIDER_NAMES.items(), free, strict=False):
            forms = {wide: category, plural_of(wide): PLURALS[category]}
            words = [forms.get(word, word) for word in words]
            scenes[category] = self._with(covered, category)
        said = parse_reference(" ".join(words))
        if said is None:
            return None
        relation = None if isinstance(said, Extreme | Ordinal) else said.relation
        row = row_of(said.noun, scenes.get(said.noun.category, self._drawn))
        return meant_among(row, said, scenes.get(relation.anchor.category if relation else "", self._drawn))

    def _with(self, covered: Sequence[str], category: str) -> Scene:
        items = (
            replace(each, attributes=replace(each.attributes, category=category))
            if each.attributes.category in covered
            else each
            for each in self._drawn.objects
        )
        return replace(self._drawn, objects=tuple(items))


def measure(options: Options, asked: SceneSet) -> dict[str, Any]:
    """Return the figures of both worlds, what several names cost, and which nouns were merged."""
    shipped = PosteriorConfig(**for_any_captioner(is_heard=True)["values"]["posterior"])
    images = {name: annotated_scenes(options, asked, setting) for name, setting in SETTINGS.items()}
    arms = {name: (each, corrected(shipped, each)) for name, each in images.items()}
    learnt = arms[MANY][1]
    arms[UNLEARNT] = (images[MANY], learnt.model_copy(update={"names": None}))
    truths = [NamedTruth(scene) for scene in asked.all()]
    found = paired({name: _sums(truths, *arm) for name, arm in arms.items()})
    tree = {}
    for name in arms:
        beside = differences(found, name, ONE, _FIGURES)
        tree[name] = ratios(found, name, _FIGURES) | {f"{figure} - {ONE}": each for figure, each in beside.items()}
    evidence = [evidence_of(said, "draws") for image in images[ONE] for said in drawn_by_mask(image).values()]
    return {
        "figures": tree,
        "learnt": None if learnt.names is None else learnt.names.model_dump(),
        "planted": {str(share): planted(evidence, share) for share in PLANTED},
    }


def _sums(truths: Sequence[SceneImageTruth], images: Sequence[ShardImage], posterior: PosteriorConfig) -> list[Sums]:
    of_one = compose(truths, images, posterior).sums()
    absent = compose(truths, images, posterior, num_targets=0).sums()
    return [{**one, "absences": none["accuracy"]} for one, none in zip(of_one, absent, strict=True)]


def planted(masks: Sequence[Evidence], share: float) -> dict[str, int]:
    """Return how many pairs of categories that were made to be confused are taken for names of one thing, or for wider.

    A share of the draws of each goes to the other, with a correctness that this noun has where it is drawn wrongly. Of
    five categories two are confused with each other, and one with each of the last two.
    """
    rng, pairs, merged = draw_generator(0, round(100 * share)), 0, 0
    wrong = {
        noun: [each.correctness[noun] for each in masks if 0 < each.nouns.get(noun, 0.0) < _RARE] for noun in CATEGORIES
    }
    for _ in range(_PAIRINGS):
        others: dict[str, list[str]] = {}
        for one, other, middle, *ends in rng.permutation(CATEGORIES).reshape(-1, 5).tolist():
            others |= {one: [other], other: [one], middle: ends, **{end: [middle] for end in ends}}
        found = noun_relations([_confused(each, others, wrong, share, rng) for each in masks])
        groups = [*found.same, *((wide, name) for wide, names in found.wider.items() for name in names)]
        planned = {frozenset((noun, each)) for noun, those in others.items() for each in those}
        pairs += len(planned)
        merged += sum(any(pair <= {*names} for names in groups) for pair in planned)
    return {"pairs": pairs, "merged": merged}


def _confused(
    mask: Evidence,
    others: Mapping[str, Sequence[str]],
    wrong: Mapping[str, Sequence[float]],
    share: float,
    rng: np.random.Generator,
) -> Evidence:
    nouns, correctness = dict(mask.nouns), dict(mask.correctness)
    for noun, weight in mask.nouns.items():
        for other in others.get(noun, ()):
            moved = share * weight / len(others[noun])
            nouns[noun] -= moved
            nouns[other] = nouns.get(other, 0.0) + moved
            correctness.setdefault(other, float(rng.choice(wrong[other])))
    return replace(mask, nouns=nouns, correctness=correctness)


def main(
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    split: Annotated[Split, typer.Option(help="Choose on development, report on test.")] = Split.DEVELOPMENT,
    first: Annotated[int, typer.Option(min=0, help="Position of the first scene.")] = 0,
    scenes: Annotated[int, typer.Option(min=1, help="How many scenes.")] = 100,
    cache: Annotated[Path, typer.Option(help="Where annotated scenes are kept.")] = Path("bench-out/composing"),
    processes: Annotated[int, typer.Option(min=1, help="To annotate what the cache lacks.")] = 2,
) -> None:
    """Print the figures of both worlds, what was learnt, and how many planted pairs were merged."""
    found = measure(Options(cache, processes=processes), SceneSet(split, scenes, first=first))
    rows = [(name, *map(cell, row.values())) for name, row in found["figures"].items()]
    typer.echo(markdown_table(("composed from", *found["figures"][ONE]), rows))
    typer.echo(json.dumps({name: found[name] for name in ("learnt", "planted")}, indent=1))
    if json_path is not None:
        facts = {"split": split.value, "first": first, "scenes": scenes}
        json_path.write_text(json.dumps({**facts, **found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
