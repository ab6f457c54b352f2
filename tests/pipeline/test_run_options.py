"""What a session refuses before anything is listed or computed; no Ray."""

from __future__ import annotations

import sys
from functools import partial

import pytest

from pseudoris.pipeline.annotation import annotate
from pseudoris.pipeline.dry_run import dry_run
from pseudoris.pipeline.run_options import RunOptions, check_options, check_packages_here
from pseudoris.pipeline.sample_run import estimate
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.errors import ConfigError
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.refilter import RuleChange, refilter
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


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_a_run_that_was_annotated_is(runs, options):
    check_options(runs[0], options)


def test_where_no_run_is_one_may_begin_and_nothing_can_be_retried(tmp_path):
    check_options(RunLocation.open(str(tmp_path / "new")), RunOptions())
    with pytest.raises(ConfigError, match="there is no run at"):
        check_options(RunLocation.open(str(tmp_path / "new")), RunOptions(is_retry=True))


def without_spacy(monkeypatch, *assignments):
    monkeypatch.setitem(sys.modules, "spacy", None)
    return load_config("tiny", assignments=["filtering.nouns=spacy", *assignments])


@pytest.mark.parametrize("module", ["annotation", "dry_run", "sample_run"])
def test_a_parser_that_is_not_installed_is_refused_before_ray(module, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(f"pseudoris.pipeline.{module}.connected", lambda address: pytest.fail("Ray was started"))
    out = str(tmp_path / "out")
    calls = {
        "annotation": partial(annotate, str(tmp_path), out),
        "dry_run": partial(dry_run, str(tmp_path), out),
        "sample_run": partial(estimate, str(tmp_path)),
    }
    with pytest.raises(ConfigError, match=r"pip install 'spacy>=3\.8,<4'"):
        calls[module](without_spacy(monkeypatch))


def test_of_a_named_cluster_the_nodes_must_have_it_and_not_this_machine(monkeypatch):
    check_packages_here(without_spacy(monkeypatch, "placement.address=10.0.0.1:6379"))
