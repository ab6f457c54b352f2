import pkgutil
import runpy
import sys

import pytest

# All that the docs of 0.5.0 name, but for `workers.domain_scorer`, which went with the domain gate.
PATHS = """
    pseudoris.deploy.job_entry pseudoris.synthworld.demo pseudoris.training.evaluation.Truth
    pseudoris.training.exclusions pseudoris.training.learning pseudoris.training.learning.clip_features
    pseudoris.training.metrics pseudoris.training.ppt.pairs pseudoris.workers.captions.distinctive
    pseudoris.workers.checkpoints.sam_architectures pseudoris.workers.faults.quarantine.apply_to_images
    pseudoris.workers.filtering.scorer
"""


@pytest.mark.parametrize("path", PATHS.split())
def test_a_dotted_path_of_the_docs_of_0_5_0_is_still_there(path):
    pkgutil.resolve_name(path)


def test_the_command_that_writes_hashes_runs_at_its_place_of_0_5_0(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["exclusions", "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module("pseudoris.training.exclusions", run_name="__main__")
    assert "python -m pseudoris.interchange.exclusions" in capsys.readouterr().out
