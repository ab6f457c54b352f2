"""What counts as right, on images of a few masks; and the whole against the plainest code over a built run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from pseudoris.store.location import RunLocation
from pseudoris.synthworld.scene_truth import SceneTruth
from pseudoris.training.evaluation import evaluate_run
from pseudoris.training.evaluation.run_evaluation import FIGURES, MASK_FIGURES
from pseudoris.training.evaluation.truth import SETS, CandidateTable, count_image
from pseudoris.workers.masks import rle
from tests.builders.scene_runs import scene_run, scenes, truth_bytes
from tests.training.evaluation.plain import plain_figures

SIZE = (20, 40)


def boxes(*edges: tuple[int, int]) -> list[str]:
    """Return masks, each of ten rows and the columns from one edge to the other."""
    masks = torch.zeros((len(edges), *SIZE), dtype=torch.bool)
    for mask, (left, right) in zip(masks, edges, strict=True):
        mask[5:15, left:right] = True
    return rle.encode(masks)


@dataclass
class Known:
    """Objects side by side; a text is the numbers of those that it refers to, `?` cannot be told."""

    masks: list[str] = field(default_factory=lambda: boxes((0, 10), (15, 25), (30, 40)))
    size: tuple[int, int] = SIZE

    def referents(self, text):
        return None if text == "?" else frozenset(int(word) for word in text.split() if word.isdigit())

    def attributes(self, text, number):
        return (0, 0, 4) if text == "?" else (2, 1, 4)

    def num_alike(self, number):
        return number * 2

    def group(self, number):
        return "first" if number == 0 else None


def candidates(*rows, masks=None, kept=True, draws=(0, 0, 1, 0)) -> CandidateTable:
    """Return rows of (mask, text[, draws[, kept]]) over the masks of the objects, by default."""
    masks = boxes((0, 10), (15, 25), (30, 40)) if masks is None else masks
    whole = [(*row, *(draws, kept)[len(row) - 2 :]) for row in rows]
    return CandidateTable(
        size=SIZE,
        mask_ids=[f"m{n}" for n in range(len(masks))],
        mask_counts=masks,
        texts=[text for _, text, _, _ in whole],
        targets=[[f"m{n}" for n in np.atleast_1d(mask)] for mask, _, _, _ in whole],
        draws=np.array([each for _, _, each, _ in whole], dtype=np.int64).reshape(-1, 4),
        is_kept=np.array([each for _, _, _, each in whole], dtype=bool),
        kinds=["attribute"] * len(whole),
        sources=["model"] * len(whole),
    )


def test_what_was_composed_is_no_candidate_whatever_its_kind_and_what_a_human_wrote_is_one():
    said = candidates((0, "0"), (1, "1"), (1, "2"), draws=(0, 0, 0, 0))
    sums = count_image(Known(), replace(said, sources=["composer", "human", "human"]))
    assert sums["all.accuracy"] == (1.0, 2.0)
    assert sums["kept.accuracy"] == (2.0, 3.0)


def test_kinds_are_counted_apart_and_what_has_not_one_target_covers_no_object():
    said = candidates((0, "0"), ((0, 1), "0 1"), ((), ""), ((), "2"), draws=(0, 0, 0, 0))
    said = replace(said, kinds=["position", "group", "none", "none"], sources=["composer"] * 4)
    sums = count_image(Known(), said)
    assert {name: pair for name, pair in sums.items() if name.startswith("kind.")} == {
        "kind.position": (1.0, 1.0),
        "kind.group": (1.0, 1.0),
        "kind.none": (1.0, 2.0),
    }
    assert sums["kept.accuracy"] == (3.0, 4.0)
    assert sums["kept.coverage"] == (1.0, 3.0)
    # Nobody drew what was composed: it is no candidate.
    assert sums["all.accuracy"] == (0.0, 0.0)
    assert "difficulty.no object" not in sums
    assert count((0, "0"))["kind.attribute"] == (1.0, 1.0)


def count(*rows, truth=None, **options):
    return count_image(truth or Known(), candidates(*rows, **options))


def test_an_expression_is_right_where_it_refers_to_its_target_and_to_nothing_else():
    for text, is_right in (("0", 1.0), ("0 1", 0.0), ("1", 0.0), ("", 0.0), ("?", 0.0)):
        assert count((0, text))["kept.accuracy"] == (is_right, 1.0), text


def test_every_figure_of_a_run_is_what_the_plainest_code_finds(tmp_path):
    known = scenes(9)
    location = RunLocation.open(str(tmp_path / "run"))
    scene_run(location, known, per_shard=4)
    due = plain_figures(location, known)
    found = evaluate_run(location, SceneTruth.from_json(truth_bytes(known), "truth.json"))
    values = {f"{name}.{figure}": found.sets[name][figure].value for name in SETS for figure in FIGURES}
    values |= {f"masks.{figure}": found.mask_quality[figure].value for figure in MASK_FIGURES}
    values |= {f"difficulty.{name}": part.accuracy.value for name, part in found.difficulty.items() if part.expressions}
    values |= {f"group.{name}": part.accuracy.value for name, part in found.groups.items() if part.expressions}
    assert values == pytest.approx(due)
    assert 0 < due["kept.accuracy"] < 1
    assert 0 < due["masks.recall_75"] < due["masks.recall_50"] < 1
