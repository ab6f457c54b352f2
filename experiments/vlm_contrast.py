"""Whether distinctive sampling helps a vision-language model: `python -m experiments.vlm_contrast OUT.json [--on-dev]`.

The model is the tiny LLaVA of `recipes.llava_recipe`, the captioner is `vlm`. It is asked for captions with its own
distribution, and with the other masks' subtracted, over the same rules and the same random numbers. Two definitions of
the similarity s_ij are compared, the scorer's cosine and 1, each with several weights. Development scenes choose the
weight of each and between the two; test scenes, of which nothing else here uses any, are asked once, with what was
chosen and with the paper's weight. Captions are judged by the truth, on the truth's masks and on SAM's. Both steps
write into OUT.json; that of the whole is kept as experiments/results/vlm-contrast.json.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from experiments.oracle import candidates_of
from experiments.process_pool import run_jobs
from experiments.quality.markdown_cells import cell, markdown_table, value
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.shard import Shard
from pseudoris.synthworld.scene_truth import SceneImageTruth
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.training.evaluation.bootstrap import Estimate, ImageBootstrap, Sums
from pseudoris.training.evaluation.truth import count_image
from pseudoris.workers.filtering import ClipScorer
from pseudoris.workers.masks import SamProposer
from pseudoris.workers.stages import STAGE_CAPTION, stages_named
from recipes.caption_crops import CROP_SIZE_PX
from recipes.llava_recipe import FOLDER
from recipes.scene_shards import SceneImage, scene_image, scene_shard

# Of scenes that no model was trained on and no other choice was made on.
FIRST_SCENE: Final = {Split.DEVELOPMENT: 140_000, Split.TEST: 150_000}
SIMILARITIES: Final = ("clip", "one")
WEIGHTS: Final = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
# The first one chooses.
MASKS: Final = {"sam": "SAM's masks", "truth": "the truth's masks"}
# The first one chooses.
FIGURES: Final = {
    "sampling.accuracy": "referring accuracy",
    "sampling.attribute_precision": "stated words that are true",
    "sampling.words": "words",
    "sampling.coverage": "coverage",
    "kept.accuracy": "accuracy of kept",
    "kept.coverage": "coverage of kept",
}
_ACCURACY: Final = next(iter(FIGURES))
_CHUNK = 5


@dataclass(frozen=True)
class Arm:
    """How tokens are drawn: s_ij and the weight of the others; without a similarity, from the model's own."""

    similarity: str | None = None
    weight: float = 0.0

    @property
    def name(self) -> str:
        """As in the table."""
        return "own" if self.similarity is None else f"{self.similarity} × {self.weight:g}"

    def config(self) -> RunConfig:
        """Return the run that annotates in this way: `tiny`, captioned by the model on two crop kinds."""
        options = {"crop_size": CROP_SIZE_PX, "similarity": self.similarity or "one"}
        settings = [
            "captions.engine=vlm",
            "captions.architecture=null",
            f"captions.weights={{uri: {FOLDER}}}",
            f"captions.options={json.dumps(options)}",
            "captions.context_scales=[1.2]",
            "captions.beam.num_beams=0",
            "captions.sampling.max_others=6",
            f"captions.sampling.is_distinctive={str(self.similarity is not None).lower()}",
            f"captions.sampling.others_weight={self.weight}",
        ]
        return load_config("tiny", None, settings)


OWN: Final = Arm()
# The weight of the paper and of every preset, which no choice made.
PAPER: Final = [Arm(similarity, 1.0) for similarity in SIMILARITIES]


class Annotator:
    """The stages of all arms; they share the proposer and the scorer."""

    def __init__(self, arms: Sequence[Arm]) -> None:
        """Load the models."""
        own = OWN.config()
        self._propose, self._score = SamProposer(own.masks, own.compute), ClipScorer(own.filtering, own.compute)
        (captioning,) = stages_named((STAGE_CAPTION,))
        self._captioners = {arm.name: captioning.build(arm.config()) for arm in arms}

    def evaluate(self, images: Sequence[SceneImage], *, with_truth: bool) -> list[Sums]:
        """Return each scene's sums by `<arm>/<masks>/<figure>`, on SAM's masks, and on the truth's if asked."""
        given = {"sam": self._propose(scene_shard(images))}
        if with_truth:
            given["truth"] = scene_shard(images, with_true_masks=True)
        counts: list[dict[str, tuple[float, float]]] = [{} for _ in images]
        for masks, shard in given.items():
            for name, caption in self._captioners.items():
                scored: Shard = self._score(caption(shard))
                for count, item, image in zip(counts, images, scored.images, strict=True):
                    truth = SceneImageTruth(item.scene, item.masks)
                    found = count_image(truth, candidates_of(image, lambda expression: expression.kept))
                    count |= {f"{name}/{masks}/{figure}": found[figure] for figure in FIGURES}
        return list(counts)


def evaluate(arms: Sequence[Arm], split: Split, num_scenes: int, processes: int) -> ImageBootstrap:
    """Return the figures of all arms over the first scenes of a split that are this experiment's."""
    first = FIRST_SCENE[split]
    chunks = [
        range(start, min(start + _CHUNK, first + num_scenes)) for start in range(first, first + num_scenes, _CHUNK)
    ]
    found = run_jobs(partial(_evaluate_chunk, tuple(arms), split), chunks, processes, shown=f"{split} scenes")
    return ImageBootstrap(sums for chunk in found for sums in chunk)


def _evaluate_chunk(arms: tuple[Arm, ...], split: Split, positions: range) -> list[Sums]:
    images = [scene_image(make_scene(split, position)) for position in positions]
    return _annotator(arms).evaluate(images, with_truth=split is Split.TEST)


@lru_cache(maxsize=1)
def _annotator(arms: tuple[Arm, ...]) -> Annotator:
    return Annotator(arms)


def report(bootstrap: ImageBootstrap, arms: Sequence[Arm]) -> dict[str, Any]:
    """Return each arm's figures by sort of masks, and by how much each exceeds the model's own sampling, as JSON."""
    measured = {name.split("/")[1] for name in bootstrap.names}
    return {
        arm.name: {
            masks: {
                **{figure: asdict(bootstrap.ratio(f"{arm.name}/{masks}/{figure}")) for figure in FIGURES},
                "minus own": asdict(_gain(bootstrap, arm, OWN, masks)),
            }
            for masks in MASKS
            if masks in measured
        }
        for arm in arms
    }


def _gain(bootstrap: ImageBootstrap, arm: Arm, other: Arm, masks: str) -> Estimate:
    return bootstrap.difference(f"{arm.name}/{masks}/{_ACCURACY}", f"{other.name}/{masks}/{_ACCURACY}")


def chosen(development: dict[str, Any]) -> list[Arm]:
    """Return the best weight of each similarity on SAM's masks, the best similarity first."""

    def accuracy(arm: Arm) -> float:
        return float(development[arm.name]["sam"][_ACCURACY]["value"])

    best = [max((Arm(similarity, weight) for weight in WEIGHTS), key=accuracy) for similarity in SIMILARITIES]
    return sorted(best, key=accuracy, reverse=True)


def table(found: dict[str, Any]) -> str:
    """Return the printed table: each arm by sort of masks."""
    rows = []
    for name, by_masks in found.items():
        for masks, figures in by_masks.items():
            step = "" if name == OWN.name else cell(figures["minus own"], sign="+")
            first, *others = (figures[figure] for figure in FIGURES)
            rows.append((name, MASKS[masks], step, cell(first), *map(value, others)))
    return markdown_table(("arm", "masks", "minus own", *FIGURES.values()), rows)


def main(
    out: Annotated[Path, typer.Argument(help="A JSON file; its development figures are not measured again.")],
    dev: Annotated[int, typer.Option(min=1, help="Development scenes.")] = 120,
    test: Annotated[int, typer.Option(min=1, help="Test scenes.")] = 200,
    processes: Annotated[int, typer.Option(min=1, help="Each holds all models.")] = 2,
    on_dev: Annotated[bool, typer.Option("--on-dev", help="End after the development scenes.")] = False,
) -> None:
    """Choose on development scenes, report on test scenes."""
    record = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    if "development" not in record:
        arms = [OWN, *(Arm(similarity, weight) for similarity in SIMILARITIES for weight in WEIGHTS)]
        found = report(evaluate(arms, Split.DEVELOPMENT, dev, processes), arms)
        record = {"development scenes": dev, "development": found, "chosen": [arm.name for arm in chosen(found)]}
        _write(out, record)
    typer.echo(table(record["development"]))
    if on_dev:
        return
    best = chosen(record["development"])
    arms = list(dict.fromkeys((OWN, *best, *PAPER)))
    bootstrap = evaluate(arms, Split.TEST, test, processes)
    record |= {"test scenes": test, "test": report(bootstrap, arms)}
    record["differences"] = {
        f"{one.name} minus {other.name}": {masks: asdict(_gain(bootstrap, one, other, masks)) for masks in MASKS}
        for one, other in (best, PAPER)
    }
    _write(out, record)
    typer.echo(table(record["test"]))


def _write(out: Path, record: dict[str, Any]) -> None:
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
