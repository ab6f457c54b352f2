"""What is reported of counted images, as JSON values and as lines for a person."""

from __future__ import annotations

import json
from types import SimpleNamespace

from pseudoris.training.evaluation.bootstrap import Estimate, ImageBootstrap
from pseudoris.training.evaluation.run_evaluation import FIGURES, MASK_FIGURES, ImageCounts, as_tree, summarise
from pseudoris.training.evaluation.truth import SETS

IMAGES = ImageCounts(judged=2, in_truth=2, in_plan=2, shards_read=1, shards=1)


def sums(right, **changes):
    """Return an image of four objects, of which `right` figures of each kind hold."""
    every = {f"{name}.{figure}": (float(right), 4.0) for name in SETS for figure in FIGURES}
    return every | {f"masks.{figure}": (float(right), 4.0) for figure in MASK_FIGURES} | changes


def summary(*images, groups=(), counts=IMAGES):
    truth = SimpleNamespace(title="the truth", notes=("a note",), groups=groups, judges_texts=True)
    return summarise(ImageBootstrap(images), counts, truth, run="out")


def test_figures_are_ratios_over_all_images_and_differences_are_paired():
    more = {f"kept.{figure}": (4.0, 4.0) for figure in FIGURES}
    found = summary(sums(1, **more), sums(3, **more))
    assert found.sets["all"]["accuracy"].value == 0.5
    assert found.sets["kept"]["coverage"].value == 1.0
    assert set(found.differences) == {"kept − all", "sampling − beam"}
    assert found.differences["kept − all"]["accuracy"].value == 0.5
    assert found.differences["sampling − beam"]["words"] == Estimate(0.0, 0.0, 0.0)
    assert (found.objects, found.draws, found.kept) == (8, 8, 8)


def test_json_has_null_for_what_nothing_was_counted_of():
    found = summary(sums(1, **{"beam.accuracy": (0.0, 0.0)}))
    tree = json.loads(json.dumps(as_tree(found), allow_nan=False))
    assert tree["sets"]["beam"]["accuracy"] == {"value": None, "low": None, "high": None}
    assert tree["sets"]["all"]["accuracy"]["value"] == 0.25
    assert tree["difficulty"]["0"] == {"accuracy": {"value": None, "low": None, "high": None}, "expressions": 0}
    assert tree["images"]["judged"] == 2
