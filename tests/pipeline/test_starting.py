"""What a start refuses before anything is listed or computed; no Ray."""

from __future__ import annotations

import pytest

from pipeline.starting import Start, check_start
from schemas.errors import ConfigError
from store.location import RunLocation
from store.refiltering import RuleChange, refilter
from tests.builders.scored_runs import scored_run

STARTS = {"anew": Start(), "--extend": Start(is_extension=True), "--retry-failed": Start(is_retry=True)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("starts")
    parent, child = RunLocation.open(str(folder / "parent")), RunLocation.open(str(folder / "child"))
    scored_run(parent, num_shards=1)
    refilter(parent, child, RuleChange(tau=1.2))
    return parent, child


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS.keys())
def test_a_run_that_was_filtered_anew_is_not_annotated_further(runs, start):
    parent, child = runs
    with pytest.raises(ConfigError) as refusal:
        check_start(child, start)
    assert str(refusal.value) == (
        f"{child.root} holds a run that `pseudoris refilter` made out of {parent.root}, and `annotate` cannot go on "
        f"with it: name another output; what is to be computed anew is computed in {parent.root}"
    )


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS.keys())
def test_a_run_that_was_annotated_is(runs, start):
    check_start(runs[0], start)


def test_where_no_run_is_one_may_begin_and_nothing_can_be_retried(tmp_path):
    check_start(RunLocation.open(str(tmp_path / "new")), Start())
    with pytest.raises(ConfigError, match="there is no run at"):
        check_start(RunLocation.open(str(tmp_path / "new")), Start(is_retry=True))
