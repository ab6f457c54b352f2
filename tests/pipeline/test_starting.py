"""What a start refuses before anything is listed or computed; no Ray."""

from __future__ import annotations

import sys
from functools import partial

import pytest

from pipeline.estimating import estimate
from pipeline.preview import dry_run
from pipeline.running import annotate
from pipeline.starting import Start, check_packages_here, check_start
from schemas.config_loading import load_config
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


def without_spacy(monkeypatch, *assignments):
    monkeypatch.setitem(sys.modules, "spacy", None)
    return load_config("tiny", assignments=["filtering.nouns=spacy", *assignments])


@pytest.mark.parametrize("module", ["running", "preview", "estimating"])
def test_a_parser_that_is_not_installed_is_refused_before_ray(module, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(f"pipeline.{module}.connected", lambda address: pytest.fail("Ray was started"))
    out = str(tmp_path / "out")
    calls = {
        "running": partial(annotate, str(tmp_path), out),
        "preview": partial(dry_run, str(tmp_path), out),
        "estimating": partial(estimate, str(tmp_path)),
    }
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[spacy\]'"):
        calls[module](without_spacy(monkeypatch))


def test_of_a_named_cluster_the_nodes_must_have_it_and_not_this_machine(monkeypatch):
    check_packages_here(without_spacy(monkeypatch, "placement.address=10.0.0.1:6379"))
