"""Does a second CLIP's opinion help on composed texts? `python -m evidence.experiments.composing.second_opinion OUT`.

Scenes are annotated as by `tiny-composed`, and composed at low bounds. A CLIP is asked to which mask each text of one
mask refers, as `grounding_check` asks it of drawn captions. Rules keep what was most accurate on development scenes, at
no less yield and coverage than the preset: by bounds on confidence alone, with one on the share besides, and on a
logistic line of both, where the share may weigh otherwise for texts without a place. They are reported once on fresh
test scenes (`--test`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
import typer

from evidence.experiments.composing.groups_and_absences import PRESET, SETTING
from evidence.experiments.grounding_check import OWN, SECOND, check_by, second_clip, separation_by
from evidence.experiments.listener.judged_scenes import Composed
from evidence.experiments.oracle import judged
from evidence.experiments.process_pool import run_jobs
from evidence.experiments.quality.annotated_scenes import SHIPPED, SceneSet, annotate, annotated_chunk
from evidence.experiments.quality.markdown_cells import TRIPLE, cell, differences, markdown_table, paired, ratios
from evidence.experiments.quality.parts import Options
from evidence.recipes.scene_shards import scene_image
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.fitted import Floats, log_odds, logistic, ranks
from pseudoris.schemas.keep_rule import Flags
from pseudoris.schemas.shard import SOURCE_COMPOSER, Shard
from pseudoris.synthworld.scene_truth import SceneImageTruth
from pseudoris.synthworld.scenes import Split
from pseudoris.training.calibration.confidence_fit import logistic_regression
from pseudoris.workers.composing.composer import composer_of

# Scenes that no recipe and no other experiment uses.
DEVELOPMENT: Final = SceneSet(Split.DEVELOPMENT, 80, first=6_000)
TEST: Final = SceneSet(Split.TEST, 120, first=165_000)
# Every form of a mask is there to choose among.
_ALL: Final = ("composing.min_first=0.2", "composing.min_further=0.5", "composing.max_per_mask=24")
_SHARES: Final = (0.0, *np.round(np.arange(0.05, 1.0, 0.05), 2).tolist())
_QUANTILES: Final = np.linspace(0.0, 0.98, 50)
# Bounds of the likeliest text of a mask are among its lower half: coverage hangs on them.
_OF_FIRST: Final = np.linspace(0.0, 0.5, 26)
PRESET_RULE, ALONE, BOUNDED = "preset", "confidence", "confidence and share"
LINE, BY_KIND = "line of both", "line of both, words apart"


@dataclass(frozen=True, eq=False)
class Asked(Composed):
    """Composed texts of one mask: `mask` and `kind` (E,) str, `share` (E,) float64, `is_preset` (E,) bool."""

    mask: np.ndarray
    kind: np.ndarray
    share: Floats
    is_preset: Flags

    @property
    def features(self) -> Floats:
        """Log-odds of confidence and of share, those of texts without a place, and which these are, (E, 4) float64."""
        share, is_words = log_odds(self.share), (self.kind == "attribute").astype(np.float64)
        return np.column_stack([log_odds(self.confidence), share, share * is_words, is_words])

    def reached(self, kept: Flags) -> tuple[float, float, float]:
        """Return accuracy, yield and coverage of what is kept (E,) bool."""
        right = kept & self.is_right
        covered = len(np.unique(self.scene[right] * 1_000 + self.target[right]))
        masks, visible = self.sizes.sum(axis=0)
        return float(right.sum() / max(kept.sum(), 1)), float(kept.sum() / masks), float(covered / visible)


class Rule(NamedTuple):
    """Keeps shares above a bound, of these the likeliest of its mask above `first`, others above `further`, by a line.

    `line` has a bias, and slopes of `Asked.features`.
    """

    line: tuple[float, ...] = (0.0, 1.0, 0.0, 0.0, 0.0)
    min_share: float = 0.0
    first: float = 0.0
    further: float = 0.0

    def likely(self, asked: Asked) -> Floats:
        """Return the line (E,) float64, 0 where the share is too low."""
        likely = logistic(self.line[0] + asked.features @ np.array(self.line[1:]))
        return np.where((asked.share > self.min_share) | (self.min_share == 0.0), likely, 0.0)

    def keeps(self, asked: Asked) -> Flags:
        """Return what is kept, (E,) bool."""
        return self.bounded(likely := self.likely(asked), ranks(likely, asked.mask.tolist()) == 1)

    def bounded(self, likely: Floats, is_first: Flags) -> Flags:
        """Return what the bounds keep of what `likely` says, where the likeliest of each mask is known."""
        return np.asarray(likely > np.where(is_first, self.first, self.further))


def chosen_rule(asked: Asked, rules: Sequence[Rule]) -> Rule:
    """Return the most accurate of rules with any bounds, at no less yield and coverage than the preset."""
    _, *least = asked.reached(asked.is_preset)
    found = list[tuple[float, Rule]]()
    for rule in rules:
        likely = rule.likely(asked)
        is_first, there = ranks(likely, asked.mask.tolist()) == 1, likely > 0.0
        if not there.any():
            continue
        bounds = (np.quantile(likely[is_first & there], _OF_FIRST), np.quantile(likely[there], _QUANTILES))
        for first, further in product(*([0.0, *each.tolist()] for each in bounds)):
            of_bounds = rule._replace(first=first, further=further)
            accuracy, *others = asked.reached(of_bounds.bounded(likely, is_first))
            if all(each >= low for each, low in zip(others, least, strict=True)):
                found.append((accuracy, of_bounds))
    return max(found)[1]


def rules_of(asked: Asked) -> dict[str, Rule]:
    """Return the rules that development scenes choose."""
    bounded = [Rule(min_share=share) for share in _SHARES]
    tried = {ALONE: [Rule()], BOUNDED: bounded, LINE: [_fitted(asked, 2)], BY_KIND: [_fitted(asked, 4)]}
    return {name: chosen_rule(asked, rules) for name, rules in tried.items()}


def _fitted(asked: Asked, num_features: int) -> Rule:
    table = asked.features[:, :num_features]
    bias, slopes = logistic_regression(table, asked.is_right.astype(np.float64))
    return Rule(tuple(np.round([bias, *slopes, *[0.0] * (4 - num_features)], 3).tolist()))


def report(rules: Mapping[str, Rule], asked: Asked) -> dict[str, Any]:
    """Return the figures of each rule, and what the check adds, paired over scenes, as JSON values."""
    kept, likely = {PRESET_RULE: asked.is_preset}, {name: rule.likely(asked) for name, rule in rules.items()}
    kept |= {name: rule.keeps(asked) for name, rule in rules.items()}
    # By the order alone, as many as the bounds on confidence keep.
    for name in (ALONE, LINE, BY_KIND):
        kept[f"{name}, as many"] = np.argsort(np.argsort(-likely[name], kind="stable")) < kept[ALONE].sum()
    found = paired({name: replace(asked, confidence=each.astype(np.float64)).sums() for name, each in kept.items()})
    compared = {name: ALONE for name in (BOUNDED, LINE, BY_KIND)}
    compared |= {f"{name}, as many": f"{ALONE}, as many" for name in (LINE, BY_KIND)}
    return {
        "rules": {
            name: {**ratios(found, name), "rule": rules[name]._asdict() if name in rules else None} for name in kept
        },
        "added": {name: differences(found, name, less) for name, less in compared.items()},
        "separation": {kind: _separations(asked, asked.kind == kind) for kind in sorted({*asked.kind.tolist()})}
        | {
            "all": _separations(asked, asked.confidence > 0.0)
            | {LINE: round(separation_by(likely[LINE], asked.is_right), 4)}
        },
    }


def _separations(asked: Asked, rows: Flags) -> dict[str, float]:
    right = asked.is_right[rows]
    scores = {"confidence": asked.confidence[rows], "share": asked.share[rows]}
    return {"texts": len(right)} | {name: round(separation_by(each, right), 4) for name, each in scores.items()}


def asked_scenes(options: Options, scenes: SceneSet, weights: str) -> Asked:
    """Return what is composed for scenes with the shares of a CLIP; annotates what is missing."""
    annotate(options, scenes, (SETTING,))
    ask = partial(_ask_chunk, options.out, scenes, weights)
    chunks = run_jobs(ask, scenes.chunks, options.processes, shown=f"asking of {scenes.split} scenes")
    rows, sizes = ([each for chunk in chunks for each in chunk[part]] for part in (0, 1))
    scene, target, right, confidence, mask, kind, share, is_preset = (
        np.array(column) for column in zip(*rows, strict=True)
    )
    return Asked(scene, target, right, confidence, np.array(sizes, np.float64), mask, kind, share, is_preset)


def _ask_chunk(
    out: Path, scenes: SceneSet, weights: str, chunk: range
) -> tuple[list[tuple[Any, ...]], list[list[int]]]:
    preset, everything = (composer_of(load_config(PRESET, assignments=each)) for each in ((), _ALL))
    rows, sizes, images = list[tuple[Any, ...]](), list[list[int]](), []
    stored = annotated_chunk(out, scenes, chunk, SETTING, SHIPPED)
    for at, image in zip(chunk, stored, strict=True):
        said = [each for each in everything(image).expressions if each.source == SOURCE_COMPOSER]
        of_one = tuple(each for each in said if len(each.target_mask_ids) == 1)
        images.append(replace(image, data=scene_image(scenes.scene(at)).data, expressions=of_one))
    checked = check_by(weights)(Shard(0, 0, tuple(images))).images
    for at, image, asked in zip(chunk, stored, checked, strict=True):
        matched, verdicts = judged(SceneImageTruth(scenes.scene(at)), asked, asked.expressions)
        sizes.append([len(image.masks), int(matched.is_visible.sum())])
        of_preset = {(each.target_mask_ids, each.text) for each in preset(image).expressions}
        for each, right, target in zip(asked.expressions, verdicts.is_right, verdicts.target, strict=True):
            (mask,), is_preset = each.target_mask_ids, (each.target_mask_ids, each.text) in of_preset
            told = (each.confidence, mask, each.kind, each.grounding_share, is_preset)
            rows.append((at - scenes.first, int(target), bool(right), *told))
    return rows, sizes


def main(
    out: Annotated[Path, typer.Argument(help="Folder of weights and annotated scenes, which are used again.")],
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    processes: Annotated[int, typer.Option(min=1)] = 1,
    max_scenes: Annotated[int | None, typer.Option(min=2, help="Fewer scenes, for a trial.")] = None,
    test: Annotated[bool, typer.Option("--test", help="Report on test scenes, once all is chosen.")] = False,
) -> None:
    """Choose on development scenes, and report."""
    options = Options(out, processes=processes)
    sets = [replace(each, count=min(each.count, max_scenes or each.count)) for each in (DEVELOPMENT, TEST)]
    result: dict[str, Any] = {"development": sets[0].count, "test": sets[1].count if test else None}
    for name, weights in ((SECOND, str(second_clip(out))), (OWN, "builtin:tiny/clip.safetensors")):
        chosen_on = asked_scenes(options, sets[0], weights)
        rules = rules_of(chosen_on)
        result[name] = report(rules, asked_scenes(options, sets[1], weights) if test else chosen_on)
        rows = [(rule, *(cell(row[key]) for key in TRIPLE)) for rule, row in result[name]["rules"].items()]
        added = result[name]["added"].items()
        rows += [(f"{rule}: adds", *(cell(row[key], sign="+") for key in TRIPLE)) for rule, row in added]
        typer.echo(markdown_table((name, *TRIPLE), rows))
        typer.echo(json.dumps([result[name]["separation"], *(rules[each] for each in rules)]))
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
