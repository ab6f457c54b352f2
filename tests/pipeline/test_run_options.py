"""What a session refuses before anything is listed or computed; no Ray."""

from __future__ import annotations

import sys

import pytest

from pseudoris.pipeline.identity import identity_before_ray
from pseudoris.pipeline.run_contract import RunOptions, check_options
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.errors import ConfigError
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.refiltered_run import RuleChange, refilter
from tests.builders.scored_runs import scored_run

OPTIONS = {"anew": RunOptions(), "--extend": RunOptions(is_extension=True), "--retry-failed": RunOptions(is_retry=True)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("starts")
    parent, child = RunLocation.open(str(folder / "parent")), RunLocation.open(str(folder / "child"))
    scored_run(parent, num_shards=1)
    refilter(parent, child, RuleChange(tau=1.2))
    return parent, child


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_a_run_that_was_filtered_anew_is_not_annotated_further(runs, options):
    parent, child = runs
    with pytest.raises(ConfigError) as refusal:
        check_options(child, options)
    assert str(refusal.value) == (
        f"{child.root} holds a run of `pseudoris refilter` from {parent.root}. `annotate` cannot continue it: name "
        f"another output; to compute images again, use {parent.root}"
    )


def test_where_no_run_is_one_may_begin_and_nothing_can_be_retried(tmp_path):
    check_options(RunLocation.open(str(tmp_path / "new")), RunOptions())
    with pytest.raises(ConfigError, match="there is no run at"):
        check_options(RunLocation.open(str(tmp_path / "new")), RunOptions(is_retry=True))


def without_spacy(monkeypatch, *assignments):
    monkeypatch.setitem(sys.modules, "spacy", None)
    return load_config("tiny", assignments=["filtering.nouns=spacy", *assignments])


def test_of_a_named_cluster_the_nodes_must_have_it_and_not_this_machine(monkeypatch, tmp_path):
    config = without_spacy(monkeypatch, "placement.address=10.0.0.1:6379")
    assert identity_before_ray(config, None, "in", location=RunLocation.open(str(tmp_path / "out"))) is None
