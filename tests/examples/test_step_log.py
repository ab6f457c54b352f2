"""The steps of an example: what each has cost, and which are finished."""

from __future__ import annotations

import pytest
import typer

from examples.step_log import StepLog, run_pseudoris


def test_a_step_that_fails_keeps_its_seconds_and_is_not_finished(tmp_path):
    log = StepLog(tmp_path)
    with pytest.raises(ValueError, match="broken"), log.measured("annotate"):
        raise ValueError("broken")
    assert not log.read("annotate").is_finished
    assert log.read("annotate").peak_bytes > 0
    with log.measured("annotate"):
        pass
    assert [(each.name, each.is_finished) for each in StepLog(tmp_path).records()] == [("annotate", True)]


def test_a_finished_step_is_not_done_again(tmp_path, capsys):
    done = []
    for _ in range(2):
        StepLog(tmp_path).step("annotate", lambda: done.append(1))
    assert done == [1]
    assert capsys.readouterr().err.splitlines() == ["annotate", "annotate: finished before"]


@pytest.mark.slow
def test_a_command_that_fails_ends_the_example_with_its_exit_code():
    with pytest.raises(typer.Exit) as ended:
        run_pseudoris("weights", "get", "no-such-preset")
    assert ended.value.exit_code == 2
