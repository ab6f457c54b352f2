"""The figures equal those that a plain reading of the whole tables gives."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.files.location import RunLocation
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.tables import EXPRESSIONS, IMAGES, MASKS, STATUS_QUARANTINED
from pseudoris.store.reports.run_status import (
    DRIVER_ALIVE,
    DRIVER_SILENT,
    StatusReader,
    find_bottleneck,
    measure_rates,
    run_status,
)
from pseudoris.store.reports.statistics import Distribution, TopTexts, run_statistics
from pseudoris.store.runs.commit import Provenance
from pseudoris.store.runs.lock import LOCK_FOLDER, WATCH_S, Claim, RunLock, claim_to_bytes
from pseudoris.store.runs.manifest import write_manifest
from pseudoris.store.tables.open_run import OpenRun
from tests.builders.scored_runs import begin, commit_scored, scored_run
from tests.store.builders import commit, make_entries, start_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    location = RunLocation.open(str(tmp_path_factory.mktemp("figures") / "run"))
    scored_run(location, num_shards=6, has_humans=True)
    return location


@pytest.fixture(scope="module")
def rows(run):
    return OpenRun.at(run).table(EXPRESSIONS).to_pylist()


def test_kept_a_mask_counts_masks_without_any_and_masks_an_image_images_without_any(run, rows):
    figures, masks = run_statistics(run), OpenRun.at(run).table(MASKS).to_pylist()
    kept = Counter(mask for row in rows if row["kept"] for mask in row["target_mask_ids"])
    of_image = Counter(row["image_id"] for row in masks)
    shown = (row for row in OpenRun.at(run).table(IMAGES).to_pylist() if row["status"] != STATUS_QUARANTINED)
    per_image = [of_image[row["image_id"]] for row in shown]
    assert 0 in per_image
    for found, due in (
        (figures.kept_a_mask, [kept[row["mask_id"]] for row in masks]),
        (figures.masks_an_image, per_image),
    ):
        assert (found.num_values, found.quantile(1)) == (len(due), max(due))
        assert found.mean == pytest.approx(np.mean(due))


@pytest.mark.parametrize("name", ["uniqueness", "correctness", "distinctiveness", "log_prob", "count"])
def test_scores_are_of_all_candidates_that_have_them(run, rows, name):
    found = run_statistics(run).scores[name]
    values = [row[name] for row in rows if row[name] is not None]
    assert found.num_values == len(values)
    assert found.mean == pytest.approx(np.mean(values))
    for share in (0.05, 0.37, 0.95):
        assert found.quantile(share) == pytest.approx(np.quantile(values, share, method="inverted_cdf"), rel=5.1e-4)


@pytest.mark.parametrize("name", ["source", "decoder", "crop"])
def test_the_share_kept_is_told_by_source_and_of_every_draw_by_decoder_and_crop(run, rows, name):
    found = run_statistics(run).groups[name]
    values = [
        (value, row["kept"])
        for row in rows
        for value in ([row["source"]] if name == "source" else [draw[name] for draw in row["samples"]])
    ]
    counted = Counter(value for value, _ in values)
    kept = Counter(value for value, is_kept in values if is_kept)
    assert {value: (each.counted, each.kept) for value, each in found.items()} == {
        value: (counted[value], kept[value]) for value in counted
    }
    assert list(found) == sorted(counted, key=lambda value: (-counted[value], value))
    assert all(each.share == each.kept / each.counted for each in found.values())


def test_the_most_frequent_expressions_are_kept_ones(run, rows):
    found = run_statistics(run, num_top=3)
    kept = Counter(row["text"] for row in rows if row["kept"])
    assert list(found.top) == sorted(kept.items(), key=lambda item: (-item[1], item[0]))[:3]
    assert found.top_error == 0


def test_a_growing_run_and_one_without_a_commit_have_figures(disk):
    header = begin(disk)
    assert run_statistics(disk).masks_an_image.mean is None
    commit_scored(disk, header, 2)
    assert (run_statistics(disk).totals.images, run_statistics(disk).num_planned_images) == (5, 20)


WORDS = st.lists(st.sampled_from("abcdefghij"), max_size=60)


@given(
    parts=st.lists(st.lists(st.floats(-1e9, 1e9).filter(lambda x: x == 0 or abs(x) > 1e-9), max_size=20), max_size=5),
    share=st.floats(0, 1),
)
def test_a_quantile_is_numpys_up_to_four_digits(parts, share):
    distribution = Distribution()
    for part in parts:
        distribution.add(part)
    values = [value for part in parts for value in part]
    assert distribution.num_values == len(values)
    if not values:
        assert distribution.quantile(share) is None
        assert distribution.mean is None
        return
    due = np.quantile(values, share, method="inverted_cdf")
    got = distribution.quantile(share)
    # Equal shares may round to the neighbour where share times number is a whole number.
    near = [value for value in values if value == pytest.approx(got, rel=5.1e-4)]
    assert near
    assert got == pytest.approx(due, rel=5.1e-4) or abs(np.mean(np.array(values) <= due) - share) < 1e-9
    assert distribution.mean == pytest.approx(np.mean(values), rel=1e-9, abs=1e-6)


@given(parts=st.lists(WORDS, max_size=8), capacity=st.integers(2, 12))
def test_a_count_is_too_low_by_the_error_at_most_and_never_too_high(parts, capacity):
    texts, true = TopTexts(capacity), Counter()
    for part in parts:
        texts.add(Counter(part))
        true.update(part)
    shown = dict(texts.top(100))
    for text, count in true.items():
        assert shown.get(text, 0) <= count <= shown.get(text, 0) + texts.error
    if len(true) <= capacity:
        assert texts.error == 0
        assert texts.top(3) == sorted(true.items(), key=lambda item: (-item[1], item[0]))[:3]


@pytest.mark.parametrize("has_manifest", [True, False])
def test_the_receipts_are_summed(location, has_manifest):
    receipts = commit(location, start_run(location), 0, 2)
    if has_manifest:
        write_manifest(location)
    status = run_status(location)
    assert (status.source, status.shards, status.images) == ("images/", 2, 8)
    assert (status.annotated, status.empty, status.quarantined) == (4, 2, 2)
    assert (status.masks, status.expressions, status.samples, status.kept) == (6, 12, 24, 8)
    assert status.reasons == {"corrupt": 2}
    assert status.seconds == {"propose": 3.0, "caption": 4.0}
    assert status.output_bytes == sum(part.size_bytes for each in receipts for part in each.parts.values())
    assert not status.is_complete


def test_a_generation_that_appears_between_two_looks_replaces_its_shards_figures(location):
    header = start_run(location)
    commit(location, header, 0, 1)
    reader = StatusReader(location)
    before = reader.read()
    commit(location, header, 1, generation=1, provenance=Provenance(mixed=("device_kind: 'a' in the run, 'b' now",)))
    after = reader.read()
    assert (after.retried, after.mixed, before.retried) == (1, 1, 0)
    assert (after.shards, after.masks, after.seconds) == (before.shards, before.masks, before.seconds)
    assert after.reasons == before.reasons == run_status(location).reasons


def test_speed_and_what_is_left_follow_the_times_of_the_receipts(disk):
    commit(disk, start_run(disk, make_entries(num_shards=10)), *range(5))
    for shard in range(5):
        path = f"_receipts/shard-{shard:08d}.g0.json"
        os.utime(disk.uri(path), (1_000 + 3.5 * shard,) * 2)
    lock = RunLock.acquire(disk)
    status = StatusReader(disk).read(now_s=1_014.0)
    assert status.rates.overall == pytest.approx(4 / 3.5)
    assert status.rates.now == pytest.approx(4 / 3.5)
    assert status.eta_s == pytest.approx(20 / (4 / 3.5))
    lock.release()
    # Nobody works on it: what is left takes as long as it took overall, from the next start on.
    assert StatusReader(disk).read(now_s=1_014.0).rates.now is None
    assert StatusReader(disk).read(now_s=9e9).eta_s == pytest.approx(20 / (4 / 3.5))


def test_a_driver_of_another_machine_is_alive_while_its_claim_is_young_or_moves(location):
    start_run(location)
    claim = Claim("abc", 0, "elsewhere", 4711)
    location.replace(f"{LOCK_FOLDER}/claim-00000001.json", claim_to_bytes(claim))
    reader = StatusReader(location)
    now_s = time.time()
    assert reader.read(now_s=now_s).driver.state == DRIVER_ALIVE
    assert reader.read(now_s=now_s + WATCH_S + 5).driver.state == DRIVER_SILENT
    location.replace(f"{LOCK_FOLDER}/claim-00000001.json", claim_to_bytes(replace(claim, counter=1)))
    # A machine whose clock is an hour ahead still sees the counter move.
    assert reader.read(now_s=now_s + 3_600).driver.state == DRIVER_ALIVE


def test_the_bottleneck_is_the_stage_with_most_seconds_an_actor_where_actors_are_known():
    seconds = {"read": 1.0, "propose": 20.0, "caption": 40.0, "filter": 4.0}
    actors = (
        f"placement.{stage}.max_actors={number}" for stage, number in (("propose", 2), ("caption", 8), ("filter", 1))
    )
    for settings, expected in (([], ("caption", False)), (["placement.mode=staged", *actors], ("propose", True))):
        found = find_bottleneck(seconds, load_config("tiny", None, settings))
        assert (found.stage, found.is_by_actor) == expected
        assert 0.4 < found.share < 0.7
    assert find_bottleneck({}, load_config("tiny")) is None


@pytest.mark.parametrize("pause_s", [200.0, 3_600.0, 100 * 86_400.0])
def test_a_pause_between_two_starts_does_not_lower_the_overall_rate(pause_s):
    first = np.arange(1, 51) * 30.0
    times = np.concatenate([first, first + first[-1] + pause_s])
    found = measure_rates(times, np.full(times.size, 10, np.int64), shard_s=30.0, now_s=times[-1])
    assert found.num_pauses == 1
    assert found.overall == pytest.approx(10 / 30)
    assert found.active_s == pytest.approx(100 * 30.0)
