"""A run filtered anew equals one that was annotated under the rule from the start, whatever happens on the way."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config import ComputeConfig
from pseudoris.schemas.config_layers import load_config, validate
from pseudoris.schemas.fitted import PairWeightConfig, WeightLine, line_weights
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.keep_rule import KeepCondition, KeepRule
from pseudoris.schemas.shard import MasksLeft, ShardImage
from pseudoris.schemas.tables import EXPRESSIONS, SCHEMAS
from pseudoris.store.checks.expressions import expression_problems
from pseudoris.store.checks.verification import verify_run
from pseudoris.store.runs.header import read_header, require_header, sealed
from pseudoris.store.runs.manifest import is_manifest_complete, iter_manifest
from pseudoris.store.runs.plan import read_shard_plan
from pseudoris.store.runs.receipts import latest_receipts, list_receipts, receipt_path
from pseudoris.store.sessions.refiltered_run import RuleChange, refilter, refiltered
from pseudoris.store.tables.judged_expressions import rule_of
from pseudoris.store.tables.open_run import OpenRun
from pseudoris.store.tables.shard_tables import shard_tables
from pseudoris.workers.filtering import ClipScorer
from tests.builders.fitted import fitted, fitted_file
from tests.builders.images import png
from tests.builders.scored_runs import begin, commit_scored, finish, scored_run, scored_shard
from tests.builders.seals import without_digests
from tests.store.builders import HEIGHT, WIDTH, commit_made, killed_at_write, make_entries, parts

HIGHER = RuleChange(tau=1.2)


def condition(text: str) -> KeepCondition:
    return KeepCondition.model_validate(text)


def files_of(location: RunLocation, *more: str) -> dict[str, bytes]:
    """Return every file of tables and plan, and those of further folders without their digests, by its path."""
    return {path: without_digests(path, data) for path, data in parts(location, "_plan/g0001", *more).items()}


@pytest.fixture
def parent(location):
    scored_run(location)
    return location


@pytest.fixture
def target(location, tmp_path):
    if "://" in location.root:
        return RunLocation.open(f"{location.root}-new")
    return RunLocation.open(str(tmp_path / "new é"))


@pytest.fixture
def on_disk(disk):
    scored_run(disk)
    return disk


@pytest.fixture
def new(tmp_path):
    return RunLocation.open(str(tmp_path / "new"))


def test_the_tables_are_those_of_a_run_annotated_under_the_rule_from_the_start(parent, target, tmp_path):
    before = files_of(parent, "_receipts", "_manifest", "_lock")
    summary = refilter(parent, target, HIGHER)
    assert files_of(parent, "_receipts", "_manifest", "_lock") == before
    assert verify_run(target).is_clean
    assert is_manifest_complete(target, list_receipts(target))
    assert list(iter_manifest(target)) == list(latest_receipts(target))
    anew = RunLocation.open(str(tmp_path / "anew"))
    header = scored_run(anew, "filtering.tau=1.2")
    assert files_of(target) == files_of(anew)
    assert [each.counts for each in latest_receipts(target)] == [each.counts for each in latest_receipts(anew)]
    ours = require_header(target)
    assert (ours.identity, ours.config, ours.config_sha256) == (header.identity, header.config, header.config_sha256)
    assert summary.totals.kept == sum(each.counts.kept for each in latest_receipts(anew))
    assert summary.num_kept_before == sum(each.counts.kept for each in latest_receipts(parent))
    assert 0 < summary.totals.kept < summary.num_kept_before


BOUNDS = st.tuples(
    st.sampled_from(["uniqueness", "correctness", "distinctiveness", "log_prob", "count"]),
    st.sampled_from([">", ">=", "<", "<="]),
    # The scores are written in tenths: some bounds are met exactly.
    st.one_of(st.integers(-90, 40).map(lambda tenths: tenths / 10), st.integers(1, 4).map(float)),
)


@pytest.mark.slow
@settings(max_examples=40)
@given(
    tau=st.integers(0, 18).map(lambda tenths: tenths / 10),
    bounds=st.lists(BOUNDS, max_size=3),
    lone=st.sampled_from(["keep", "drop"]),
)
def test_any_rule_gives_the_rows_that_it_would_have_given_from_the_start(tau, bounds, lone):
    keep = [f"{column} {comparison} {bound!r}" for column, comparison, bound in bounds]
    before = _tables(["filtering.tau=0.95"])
    after = _tables([f"filtering.tau={tau}", f"filtering.keep={keep}", f"filtering.lone_masks={lone}"])
    rule = KeepRule(tau, tuple(condition(text) for text in keep), lone_masks=lone)
    assert refiltered(before[EXPRESSIONS], rule).equals(after[EXPRESSIONS], check_metadata=True)
    assert [what for what, details in expression_problems(after, rule) for _ in details] == []


def _tables(assignments: list[str]) -> dict[str, pa.Table]:
    entries = make_entries(num_shards=1, per_shard=5)
    shard = scored_shard(load_config("tiny", None, assignments), entries)
    return shard_tables(shard, embed_images=False)


@pytest.mark.slow
@pytest.mark.parametrize("num_threads", [1, 16])
def test_neither_threads_nor_a_second_call_change_a_byte(on_disk, new, tmp_path, num_threads):
    other = RunLocation.open(str(tmp_path / "other"))
    refilter(on_disk, other, HIGHER)
    seen = []
    refilter(on_disk, new, HIGHER, num_threads=num_threads, on_progress=lambda done, total: seen.append((done, total)))
    per_shard = require_header(new).num_images // 4
    assert seen == [(per_shard * done, per_shard * 4) for done in range(5)]
    once = files_of(new, "_receipts", "_manifest")
    assert once == files_of(other, "_receipts", "_manifest")
    assert verify_run(new, root=verify_run(other).root).is_clean
    again = refilter(on_disk, new, HIGHER, num_threads=num_threads)
    assert again.num_shards_before == 4
    assert files_of(new, "_receipts", "_manifest") == once


@pytest.mark.slow
def test_killed_at_any_write_the_same_call_finishes_it_with_the_same_bytes(disk, tmp_path, monkeypatch):
    scored_run(disk, num_shards=2, per_shard=2)
    whole = RunLocation.open(str(tmp_path / "whole"))
    refilter(disk, whole, HIGHER)
    due, root = files_of(whole, "_receipts"), verify_run(whole).root
    is_killed, number = True, 0
    while is_killed:
        number += 1
        place = RunLocation.open(str(tmp_path / f"kill-{number}"))
        with killed_at_write(number, monkeypatch) as is_due:
            refilter(disk, place, HIGHER, num_threads=1)
        is_killed = is_due()
        refilter(disk, place, HIGHER)
        assert files_of(place, "_receipts") == due, f"killed at write {number}"
        assert verify_run(place, root=root).is_clean
        assert place.exists("DATACARD.md")
        shutil.rmtree(place.root)
    # Two of the probe, a part of the plan, the header, five of each shard, the manifest and the card.
    assert number - 1 == 2 + 1 + 1 + 2 * 5 + 1 + 1


def test_another_rule_on_the_same_output_is_refused_by_name(parent, target):
    refilter(parent, target, HIGHER)
    before = files_of(target)
    with pytest.raises(ConfigError, match=r"filtering.tau: 1.2 in the run, 1.3 now"):
        refilter(parent, target, RuleChange(tau=1.3))
    with pytest.raises(ConfigError, match=r"filtering.keep: \[\] in the run, \['count >= 2'\] now"):
        refilter(parent, target, RuleChange(1.2, [condition("count >= 2")]))
    assert files_of(target) == before


def test_conditions_that_are_not_given_stay_and_an_empty_list_takes_them_away(disk, new, tmp_path):
    scored_run(disk, "filtering.keep=['count >= 2']")
    assert refilter(disk, new, HIGHER).rule == KeepRule(1.2, (condition("count >= 2"),))
    bare = RunLocation.open(str(tmp_path / "bare"))
    assert refilter(disk, bare, RuleChange(keep=())).rule == KeepRule(1.0)
    assert read_header(bare).identity.method["filtering"]["keep"] == []


def test_drawn_and_composed_weights_follow_their_lines_and_a_humans_is_one(disk):
    scored_run(disk, has_humans=True)
    table = OpenRun.at(disk).table(EXPRESSIONS)
    rows = table.to_pylist()
    for number, row in enumerate(rows):
        if row["source"] == "model" and len(row["target_mask_ids"]) == 1:
            row.update(confidence=0.8, source="composer" if number % 2 else "model")
    lines = {"model": WeightLine(bias=1.0), "composer": WeightLine(bias=-1.0)}
    rule = KeepRule(1.0, pair_weight=PairWeightConfig(drawn=lines["model"], composed=lines["composer"]))
    for row in refiltered(pa.Table.from_pylist(rows, schema=table.schema), rule).to_pylist():
        line = lines.get(row["source"]) if row["confidence"] is not None else None
        assert row["weight"] == (line_weights(line, np.array([0.8]))[0] if line else 1.0)


def test_a_bound_on_a_kind_decides_about_its_composed_expressions_alone():
    rows = (table := _tables(["filtering.tau=0.95"])[EXPRESSIONS]).to_pylist()[:4]
    found = (("position", 0.9), ("position", 0.8), ("relation", 0.8))
    for row, (kind, confidence) in zip(rows, found, strict=False):
        row.update(source="composer", kind=kind, confidence=confidence, kept=True)
    changed = pa.Table.from_pylist(rows, schema=table.schema)
    for bounds, kept in (((condition("position > 0.85"),), [True, False, True]), ((), [True, True, True])):
        assert refiltered(changed, KeepRule(0.95, bounds))["kept"].to_pylist()[:3] == kept


@pytest.mark.parametrize("place", ["", "inner", ".."])
def test_a_place_in_or_around_the_parent_is_refused(on_disk, place):
    root = str((Path(on_disk.root) / place).resolve())
    with pytest.raises(ConfigError, match="would be inside its parent"):
        refilter(on_disk, RunLocation.open(root), HIGHER)


def test_a_run_that_is_not_complete_is_no_parent(disk, new):
    commit_scored(disk, begin(disk), 0)
    said = r"is not complete, 1 of 4 shards .* run the `annotate` command that started it again"
    with pytest.raises(ConfigError, match=said):
        refilter(disk, new, HIGHER)
    assert read_header(new) is None


def test_a_parent_whose_retry_no_manifest_holds_is_refused_and_then_taken_as_it_stands(disk, new, tmp_path):
    header = scored_run(disk)
    commit_scored(disk, header, 2, generation=1)
    with pytest.raises(ConfigError, match=r"the last manifest of .* lacks some commits"):
        refilter(disk, new, HIGHER)
    assert read_header(new) is None
    finish(disk)
    refilter(disk, new, HIGHER)
    assert list_receipts(new) == dict.fromkeys(range(4), 0)
    anew = RunLocation.open(str(tmp_path / "anew"))
    scored_run(anew, "filtering.tau=1.2")
    assert files_of(new) == files_of(anew)
    assert require_header(new).parent.manifest == 2


@pytest.mark.slow
def test_a_parent_that_moves_on_meanwhile_is_read_as_it_was(disk, new, tmp_path):
    header = scored_run(disk)
    whole = RunLocation.open(str(tmp_path / "whole"))
    refilter(disk, whole, HIGHER)
    refilter(disk, new, HIGHER)
    before = files_of(new, "_receipts")
    for shard in (2, 3):
        Path(new.uri(receipt_path(shard, 0))).unlink()
    commit_scored(disk, header, 0, generation=1)
    finish(disk)
    assert refilter(disk, new, HIGHER).num_shards_before == 2
    assert files_of(new, "_receipts") == before
    Path(new.uri(receipt_path(0, 0))).unlink()
    # Generation 0 of that shard was collected.
    with pytest.raises(ConfigError, match="was replaced by a retry of quarantined images"):
        refilter(disk, new, HIGHER)


@pytest.mark.slow
def test_a_parent_that_was_moved_is_still_the_parent_and_another_run_is_not(on_disk, new, tmp_path):
    refilter(on_disk, new, HIGHER)
    Path(new.uri(receipt_path(1, 0))).unlink()
    moved = RunLocation.open(str(tmp_path / "moved"))
    Path(on_disk.root).rename(moved.root)
    assert refilter(moved, new, HIGHER).num_shards_before == 3
    other = RunLocation.open(str(tmp_path / "other"))
    scored_run(other, num_shards=5)
    said = r"was made from the run .* has sha256 \w{64} in the first, \w{64} in the second"
    with pytest.raises(ConfigError, match=said):
        refilter(other, new, HIGHER)


def test_what_a_human_wrote_stays_kept_and_groups_stay_as_they_are(disk, new):
    scored_run(disk, has_humans=True)
    refilter(disk, new, RuleChange(9.0, [condition("correctness > 0.5")]))
    rows = OpenRun.at(new).table(EXPRESSIONS).to_pylist()
    assert {row["kept"] for row in rows if row["source"] == "human"} == {True}
    assert {row["kept"] for row in rows if len(row["target_mask_ids"]) == 2} == {False}
    alone = [
        row
        for row in rows
        if row["source"] == "model" and row["distinctiveness"] is None and row["kind"] == "attribute"
    ]
    # A mask alone has no rival: tau passes it, a bound on a score that it has does not.
    assert {row["kept"] for row in alone} == {True, False}
    assert all(row["kept"] == (row["correctness"] > 0.5) for row in alone)
    assert not [row for row in rows if row["kept"] and row["distinctiveness"] is not None and row["source"] == "model"]


def test_a_damaged_part_of_the_parent_is_told_and_never_copied(on_disk, new):
    receipt = next(latest_receipts(on_disk))
    path = f"masks/{receipt.parts['masks'].name}"
    on_disk.replace(path, on_disk.read_bytes(path)[:-1] + b"?")
    said = r"is damaged: .*`pseudoris annotate` command of this run again with --repair"
    with pytest.raises(ConfigError, match=said):
        refilter(on_disk, new, HIGHER)
    assert 0 not in list_receipts(new)


def test_shards_outside_promise_two_stay_outside(disk, new):
    header = begin(disk, num_shards=1)
    receipt = commit_scored(disk, header, 0)
    told = receipt.model_copy(update={"degraded": {"captions.cache_bytes": 1}, "mixed": ("device_kind: a, b",)})
    disk.replace(receipt_path(0, 0), sealed(told)[1])
    finish(disk)
    refilter(disk, new, HIGHER)
    (ours,) = latest_receipts(new)
    assert (ours.degraded, ours.mixed) == (told.degraded, told.mixed)
    assert (ours.seconds, ours.nodes, ours.attempts) == ({}, (), {})


def test_a_refilter_without_results_gives_way_to_another_rule(on_disk, new, caplog):
    refilter(on_disk, new, HIGHER)
    with pytest.raises(ConfigError, match="another identity"):
        refilter(on_disk, new, RuleChange(tau=1.3))
    for folder in ("_receipts", "_manifest"):
        for file in list(new.list(folder)):
            new.delete(f"{folder}/{file.name}")
    assert refilter(on_disk, new, RuleChange(tau=1.3)).rule.tau == 1.3
    assert "no results: it is planned anew" in caplog.text
    assert verify_run(new).is_clean


WEIGHTS = {"bias": 2, "listener": 0.5, "truth": 1.5, "log_uniqueness": 2, "relative_truth": 1}
LISTENING = ("captions.listening={}", fitted(confidence=WEIGHTS))


def annotate(location: RunLocation, *settings: str) -> RunLocation:
    """Run the filter stage over heard masks and candidates of a shard, keep all but for `settings`, and commit it."""
    settings = ("filtering.min_cosine=0.0001", "filtering.tau=0", *settings)
    header = begin(location, *settings, num_shards=1, per_shard=3)
    entries = read_shard_plan(location, header, 0)
    drafted = scored_shard(header.config, entries)
    pictures = [png(height=HEIGHT, width=WIDTH, seed=image.position) for image in drafted.images]
    images = [
        replace(_heard(image), data=data, sha256=sha256_hex(data))
        for image, data in zip(drafted.images, pictures, strict=True)
    ]
    scorer = ClipScorer(header.config.filtering, ComputeConfig(device="cpu"))
    scored = scorer(drafted.with_images(tuple(images)))
    commit_made(location, header, scored)
    finish(location)
    return location


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return annotate(RunLocation.open(str(tmp_path_factory.mktemp("plain") / "run")), *LISTENING)


@pytest.mark.slow
def test_a_bound_on_confidence_and_rank_afterwards_gives_the_same_bytes_and_verify_recomputes_both(plain, tmp_path):
    strict, new = (RunLocation.open(str(tmp_path / name)) for name in ("strict", "new"))
    rows = OpenRun.at(plain).table(EXPRESSIONS).to_pylist()
    bound = sorted(row["confidence"] for row in rows)[len(rows) // 3]
    words = [f"confidence > {bound!r}", "rank <= 2"]
    annotate(strict, f"filtering.keep={words!r}", *LISTENING)
    summary = refilter(plain, new, RuleChange(keep=[KeepCondition.model_validate(word) for word in words]))
    assert 0 < summary.totals.kept < len(rows)
    assert parts(new) == parts(strict)
    assert verify_run(new).problems == ()
    # Other weights would have given other confidences.
    header = read_header(new)
    forged = header.config.model_dump(mode="json")
    forged["filtering"]["fitted"]["values"]["confidence"]["truth"] = 1.6
    rule = rule_of(header.model_copy(update={"config": validate(forged)}))
    problems = expression_problems({name: OpenRun.at(new).table(name) for name in SCHEMAS}, rule)
    assert {what for what, details in problems for _ in details} == {"expression_confidence"}


@pytest.mark.slow
def test_a_line_applied_afterwards_gives_the_bytes_of_the_stage_that_had_it(plain, tmp_path):
    weighed, new = (RunLocation.open(str(tmp_path / name)) for name in ("weighed", "new"))
    line = {"drawn": {"bias": -0.5, "slope": 0.7}}
    annotate(weighed, *LISTENING, fitted(confidence=WEIGHTS, pair_weight=line))
    assert {row["weight"] for row in OpenRun.at(plain).table(EXPRESSIONS).to_pylist()} == {1.0}
    lines = read_header(weighed).config.filtering.fitted
    # The runs hold the values: the file is not read again.
    fitted_file(confidence=WEIGHTS, pair_weight=line).unlink()
    summary = refilter(plain, new, RuleChange(fitted=lines))
    assert summary.totals.kept == summary.num_kept_before
    assert len({row["weight"] for row in OpenRun.at(new).table(EXPRESSIONS).to_pylist()}) > 3
    assert parts(new) == parts(weighed)
    assert verify_run(new).problems == ()
    # Another rule of what is kept leaves the weights as they are.
    again = RunLocation.open(str(tmp_path / "again"))
    refilter(new, again, RuleChange(tau=99.0))
    assert OpenRun.at(again).table(EXPRESSIONS)["weight"].equals(OpenRun.at(new).table(EXPRESSIONS)["weight"])


def _heard(image: ShardImage) -> ShardImage:
    draw = random.Random(image.image_id)
    return replace(
        image,
        expressions=tuple(
            replace(each, caption_score=-4 * truth, listener=draw.random(), truth=-truth)
            for each, truth in ((each, draw.uniform(0.1, 2)) for each in image.expressions)
        ),
    )


def test_a_refiltered_run_says_as_its_parent_which_rule_left_images_without_a_mask(tmp_path):
    parent, target = (RunLocation.open(str(tmp_path / name)) for name in ("run", "new"))
    header = begin(parent, num_shards=1)
    shard = scored_shard(header.config, read_shard_plan(parent, header, 0))
    left = MasksLeft(predicted_iou=2, stability=0)
    images = (replace(image, masks_left=None if image.masks or image.failure else left) for image in shard.images)
    commit_made(parent, header, shard.with_images(tuple(images)))
    finish(parent)
    totals = refilter(parent, target, HIGHER).totals
    assert (totals.masks_left, totals.emptied) == ({"predicted_iou": 2}, {"stability": 1})
    assert totals.empty_sentence.startswith("20 % of the images have no mask: stability took the last mask of 1 of 1.")
