"""An annotated run of scenes, judged against its truth as `pseudoris evaluate` judges it."""

from __future__ import annotations

from collections.abc import Mapping

from pseudoris.store.location import RunLocation
from pseudoris.store.runs.header import require_header
from pseudoris.synthworld.scene_truth import SceneTruth
from pseudoris.training.evaluation.bootstrap import Estimate
from pseudoris.training.evaluation.human_truth import open_truth
from pseudoris.training.evaluation.run_evaluation import evaluate_run
from pseudoris.training.evaluation.truth import Truth


def judged_run(run: str) -> tuple[RunLocation, Truth]:
    """Return where a run lives, and the truth of its scenes."""
    location = RunLocation.open(run)
    return location, open_truth("synthworld", require_header(location), SceneTruth)


def judged_sets(run: str) -> Mapping[str, Mapping[str, Estimate]]:
    """Return the figures of each set of expressions: `kept`, `all`, and each decoder's."""
    return evaluate_run(*judged_run(run)).sets
