"""An annotated run of scenes, judged against its truth as `pseudoris evaluate` judges it."""

from __future__ import annotations

from collections.abc import Mapping

from pseudoris.store.location import RunLocation
from pseudoris.store.runs.header import require_header
from pseudoris.synthworld.scene_truth import SceneTruth
from pseudoris.training.evaluation.bootstrap import Estimate
from pseudoris.training.evaluation.run_evaluation import evaluate_run
from pseudoris.training.evaluation.truth import open_truth


def judged_sets(run: str) -> Mapping[str, Mapping[str, Estimate]]:
    """Return the figures of each set of expressions: `kept`, `all`, and each decoder's."""
    location = RunLocation.open(run)
    truth = open_truth("synthworld", require_header(location), SceneTruth)
    return evaluate_run(location, truth).sets
