"""Does a second CLIP's opinion help? `python -m evidence.experiments.grounding_check OUT [--json F]`.

Scenes are annotated by `tiny`, and each candidate is checked (docs/guides/listener.md#a-second-opinion). A rule with
the check and one without keep what was most accurate on development scenes at no less yield and coverage than the
preset; both are reported once on fresh test scenes.

The second CLIP is trained here, in a few minutes of one free core: its image trunk starts from the captioner that
was trained for longer, which no stage of `tiny` uses, its scenes have another seed, and all else of it is fresh.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from scipy.stats import mannwhitneyu

from evidence.experiments.listener.judged_scenes import judged_image
from evidence.experiments.process_pool import run_jobs
from evidence.experiments.quality.annotated_scenes import SHIPPED, SceneSet, Setting, annotate, annotated_chunk
from evidence.experiments.quality.markdown_cells import TRIPLE, cell, differences, markdown_table, paired, ratios
from evidence.experiments.quality.parts import Options
from evidence.recipes.caption_crops import CaptionSampler
from evidence.recipes.caption_recipe import MAX_SCALE, TRUNK, CaptionRecipe, ClipTrainee, train_captions
from evidence.recipes.caption_vocabulary import CompactVocabulary, caption_vocabulary
from evidence.recipes.scene_shards import scene_image
from evidence.recipes.shipped_weights import shipped_state, write_weights
from evidence.recipes.training_plan import TrainingPlan, start_worker, true_crops
from pseudoris.schemas.config import ComputeConfig, GroundingCheckConfig, WeightsConfig
from pseudoris.schemas.fitted import Floats
from pseudoris.schemas.keep_rule import Flags, KeepRule, keeps, parse_conditions
from pseudoris.schemas.shard import Shard
from pseudoris.synthworld.scene_truth import SceneImageTruth
from pseudoris.synthworld.scenes import Split
from pseudoris.training.calibration.confidence_fit import CHECKED, VOTE, JudgedImage, calibrate
from pseudoris.workers.checkpoints.openclip import load_coca
from pseudoris.workers.filtering import ClipCheck

SEED: Final = 48
NUM_TRAINING_SCENES: Final = 1_500
RECIPE: Final = CaptionRecipe(steps=1_200, peak_rate=7e-4, masked_share=0.4)
# Scenes that no recipe and no other experiment uses.
DEVELOPMENT: Final = SceneSet(Split.DEVELOPMENT, 150, first=5_000)
TEST: Final = SceneSet(Split.TEST, 200, first=160_000)
# Every candidate is there to choose among.
ALL: Final = Setting("unfiltered", ("filtering.tau=0",), bounds=(SHIPPED,))
SECOND, OWN = "second CLIP", "the scorer's own CLIP"
# At which both CLIPs were trained.
TEMPERATURE: Final = 1 / MAX_SCALE
_TAUS: Final = tuple(np.round(np.arange(1.0, 1.71, 0.05), 2).tolist())
_SHARES: Final = (0.0, *np.round(np.arange(0.05, 1.0, 0.05), 2).tolist())


class SecondClip(ClipTrainee):
    """A CLIP whose image trunk starts from another captioner's."""

    stream = 5

    def __init__(self, vocabulary: CompactVocabulary) -> None:
        """Draws fresh weights of all else from torch's global generator."""
        super().__init__(vocabulary)
        coca = load_coca("builtin:tiny/coca.json", WeightsConfig(uri="builtin:tiny/coca_longer.safetensors"))
        trunk = {name: each for name, each in coca.visual.state_dict().items() if name.startswith(TRUNK)}
        self.model.visual.load_state_dict(trunk, strict=False)


def second_clip(out: Path) -> Path:
    """Return the weights of the second CLIP in `out`; trains it, or continues, if they are missing."""
    path = out / "second-clip.safetensors"
    if not path.exists():
        start_worker()
        plan = TrainingPlan(out=out, seed=SEED, num_scenes=NUM_TRAINING_SCENES)
        sampler, vocabulary = CaptionSampler([true_crops(plan)], [1.0]), caption_vocabulary()
        checkpoint = plan.checkpoint("second-clip")
        trained = train_captions(SecondClip, vocabulary, sampler, RECIPE, seed=SEED, checkpoint=checkpoint)
        write_weights(path, shipped_state(trained.model.state_dict(), vocabulary))
    return path


def checked_scenes(options: Options, scenes: SceneSet, weights: str) -> list[JudgedImage]:
    """Return the judged candidates of scenes with the shares of a CLIP; annotates what is missing."""
    annotate(options, scenes, (ALL,))
    check = partial(_check_chunk, options.out, scenes, weights)
    chunks = run_jobs(check, scenes.chunks, options.processes, shown=f"checking {scenes.split} scenes")
    return [image for chunk in chunks for image in chunk]


def check_by(weights: str) -> ClipCheck:
    """Return the check that asks a CLIP of the tiny architecture."""
    config = GroundingCheckConfig(
        architecture="builtin:tiny/clip.json", weights=WeightsConfig(uri=weights), temperature=TEMPERATURE
    )
    return ClipCheck(config, ComputeConfig(device="cpu"))


def _check_chunk(out: Path, scenes: SceneSet, weights: str, chunk: range) -> list[JudgedImage]:
    drawn = [scenes.scene(at) for at in chunk]
    stored = annotated_chunk(out, scenes, chunk, ALL, SHIPPED)
    images = (replace(image, data=scene_image(scene).data) for image, scene in zip(stored, drawn, strict=True))
    checked = check_by(weights)(Shard(0, 0, tuple(images))).images
    return [judged_image(SceneImageTruth(scene), image) for scene, image in zip(drawn, checked, strict=True)]


@dataclass(frozen=True)
class TauRule:
    """Keeps distinctiveness above tau, and shares above a bound."""

    tau: float
    min_share: float = 0.0

    def keeps(self, image: JudgedImage) -> Flags:
        """Return which candidates are kept, (T,) bool."""
        conditions = parse_conditions([f"grounding_share > {self.min_share}"] if self.min_share else [])
        return keeps(KeepRule(self.tau, conditions), image.rated.scores, image.rated.groups)


def reached(images: Sequence[JudgedImage], rule: TauRule) -> dict[str, float]:
    """Return accuracy, yield and coverage of a rule."""
    sums = [image.sums(rule.keeps(image)) for image in images]
    totals = {name: np.sum([each[name] for each in sums], axis=0) for name in TRIPLE}
    return {name: float(above / below) if below else 0.0 for name, (above, below) in totals.items()}


def chosen_rule(images: Sequence[JudgedImage], preset: TauRule, shares: Sequence[float]) -> TauRule:
    """Return the most accurate rule with at least the preset's yield and coverage; the preset itself is one."""
    least = reached(images, preset)
    rules = [preset, *(TauRule(tau, share) for tau, share in product(_TAUS, shares))]
    found = [(reached(images, rule), rule) for rule in rules]
    fits = [each for each in found if all(each[0][name] >= least[name] for name in ("yield", "coverage"))]
    return max(fits, key=lambda each: each[0]["accuracy"])[1]


def choice_sums(image: JudgedImage) -> dict[str, tuple[float, float]]:
    """Return how often right and wrong candidates of masks that are not alone have a share above all others'."""
    scores = image.rated.scores
    chosen = scores["grounding_share"] > 0.5
    compared = ~np.isnan(scores["distinctiveness"])
    rows = {"right": image.is_right & compared, "wrong": ~image.is_right & compared}
    return {name: (float((chosen & of).sum()), float(of.sum())) for name, of in rows.items()}


def separation(images: Sequence[JudgedImage]) -> float:
    """Return `separation_by` of the shares of all candidates."""
    shares = (image.rated.scores["grounding_share"] for image in images)
    return separation_by(np.concatenate([*shares]), np.concatenate([image.is_right for image in images]))


def separation_by(score: Floats, is_right: Flags) -> float:
    """Return the probability that a right text has a higher score than a wrong one; ties count half."""
    above = mannwhitneyu(score[is_right], score[~is_right]).statistic
    return float(above / (is_right.sum() * (~is_right).sum()))


def rules_of(images: Sequence[JudgedImage], preset: TauRule) -> Iterator[tuple[str, Any]]:
    """Yield the rules that development scenes choose, by name: functions from an image to what is kept."""
    least = reached(images, preset)
    yield "preset", preset
    yield "tau", chosen_rule(images, preset, (0.0,))
    yield "tau, check", chosen_rule(images, preset, _SHARES)
    for name, features in (("vote", VOTE), ("vote, check", (*VOTE, *CHECKED))):
        yield name, calibrate(images, features, coverage=least["coverage"], least_yield=least["yield"])


def kept_by(rule: Any, image: JudgedImage) -> Flags:
    """Return what a rule of `rules_of` keeps, (T,) bool."""
    return rule.keeps(image) if isinstance(rule, TauRule) else rule.reached.bounds.keeps(image, rule.weights)


def said(rule: Any) -> str:
    """Return a rule in words."""
    if isinstance(rule, TauRule):
        share = f" and grounding_share > {rule.min_share:g}" if rule.min_share else ""
        return f"distinctiveness > {rule.tau:g}{share}"
    return " and ".join(rule.reached.bounds.conditions())


def report(rules: Mapping[str, Any], test: Sequence[JudgedImage]) -> dict[str, Any]:
    """Return the test figures of each rule, and what the check adds, paired over scenes, as JSON values."""
    kept = {name: [image.sums(kept_by(rule, image)) for image in test] for name, rule in rules.items()}
    found = paired({**kept, "choice": [choice_sums(image) for image in test]})
    return {
        "rules": {name: {"rule": said(rule), **ratios(found, name)} for name, rule in rules.items()},
        "added": {name: differences(found, f"{name}, check", name) for name in ("tau", "vote")},
        "share_above_half": ratios(found, "choice", ("right", "wrong")),
        "separation": round(separation(test), 4),
    }


def main(
    out: Annotated[Path, typer.Argument(help="Folder of weights and annotated scenes, which are used again.")],
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    processes: Annotated[int, typer.Option(min=1)] = 1,
    test: Annotated[bool, typer.Option("--test", help="Report on test scenes, once all is chosen.")] = False,
) -> None:
    """Choose on development scenes, and report."""
    options = Options(out, processes=processes)
    tau = Setting("tiny").config().filtering.tau
    result: dict[str, Any] = {"development": DEVELOPMENT.count, "test": TEST.count if test else None}
    for name, weights in ((SECOND, str(second_clip(out))), (OWN, "builtin:tiny/clip.safetensors")):
        judged = checked_scenes(options, DEVELOPMENT, weights)
        rules = dict(rules_of(judged, TauRule(tau)))
        judged = checked_scenes(options, TEST, weights) if test else judged
        result[name] = report(rules, judged)
        rows = [(rule, row["rule"], *(cell(row[key]) for key in TRIPLE)) for rule, row in result[name]["rules"].items()]
        for rule, row in result[name]["added"].items():
            rows.append((f"{rule}: check adds", "", *(cell(row[key], sign="+") for key in TRIPLE)))
        typer.echo(f"{name}, separation {result[name]['separation']}")
        typer.echo(markdown_table(("rule", "keeps", *TRIPLE), rows))
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
