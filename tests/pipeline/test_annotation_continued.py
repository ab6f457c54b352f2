"""Sessions after the first: drivers that end at any point, quarantined images computed again, and new images."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray

from pseudoris.files.location import RunLocation
from pseudoris.pipeline.annotation import annotate, dry_run
from pseudoris.pipeline.run_contract import RunOptions
from pseudoris.schemas.run_records import HEADER_NAME
from pseudoris.schemas.tables import SCHEMAS
from pseudoris.store.checks.verification import verify_run
from pseudoris.store.reports.run_status import run_status
from pseudoris.store.runs.garbage import run_gc
from pseudoris.store.runs.header import read_header
from pseudoris.store.runs.manifest import iter_manifest
from pseudoris.store.runs.pending_work import Notice, Planned, Retried
from pseudoris.store.runs.plan import read_shard_plan
from pseudoris.store.runs.receipts import list_receipts
from pseudoris.store.tables.image_bytes import PlannedImages
from tests.builders.images import png
from tests.builders.plain_runs import work_off
from tests.builders.runs import part_digests, stub_config, write_source
from tests.faults.harness import DEADLINE_S, Driver, start_driver

pytestmark = pytest.mark.ray

RETRY = RunOptions(is_retry=True)
# One in a shard of its own neighbours, two that share one, and files that stay broken.
HIDDEN = ("a/image-003.png", "b/image-007.png", "b/image-010.png")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_source(tmp_path_factory.mktemp("images"))


def hide(source: Path) -> None:
    for key in HIDDEN:
        (source / key).rename(source / f"{key}.hidden")


def show(source: Path) -> None:
    # A rename keeps the time of modification, by which the plan knows a file.
    for key in HIDDEN:
        if (source / f"{key}.hidden").exists():
            (source / f"{key}.hidden").rename(source / key)


@pytest.fixture(scope="module")
def undisturbed(ray_session, source, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    work_off(source, out, stub_config())
    return out


@pytest.fixture
def lacking(ray_session, source, tmp_path):
    """A finished run that found three of its planned images missing; they are back now."""
    out = tmp_path / "out"
    start_lacking(source, out)
    assert run_status(RunLocation.open(str(out))).reasons["missing"] == len(HIDDEN)
    return out


def start_lacking(source: Path, out: Path, *assignments: str) -> None:
    try:
        work_off(source, out, stub_config(*assignments), on_planned=lambda: hide(source))
    finally:
        show(source)


def started(source: Path, out: Path, *words: str, die_at: str = "never") -> Driver:
    return start_driver(source, out, ray.get_runtime_context().gcs_address, *words, die_at=die_at)


def assert_equal_tables(out: Path, undisturbed: Path) -> None:
    """Of all generations the folders hold the latest alone: what a glob reads is the undisturbed run."""
    for table in SCHEMAS:
        assert pq.read_table(out / table).to_pylist() == pq.read_table(undisturbed / table).to_pylist()
    assert verify_run(RunLocation.open(str(out))).is_clean


def test_a_retry_ends_with_the_tables_of_an_undisturbed_run(lacking, undisturbed, source):
    location = RunLocation.open(str(lacking))
    before = {receipt.shard: receipt for receipt in iter_manifest(location)}
    events = []
    assert dry_run(str(source), str(lacking), stub_config(), options=RETRY).num_to_retry == 6
    summary = annotate(str(source), str(lacking), stub_config(), options=RETRY, on_event=events.append)

    planned, *retried = [event for event in events if isinstance(event, Planned | Retried)]
    assert (planned.num_images, planned.is_retry) == (6, True)
    assert sum(event.num_images for event in retried) == 6
    tally = summary.retry
    assert (tally.num_images, tally.num_recovered) == (6, 3)
    assert (summary.totals.quarantined, summary.num_images_now) == (3, 6)
    assert "missing" not in summary.totals.reasons
    assert_equal_tables(lacking, undisturbed)
    # Shards where nothing changed wrote nothing; in the others the parts have the undisturbed run's content.
    changed = {shard for shard, generation in list_receipts(location).items() if generation == 1}
    assert len(changed) == tally.num_shards_changed < tally.num_shards
    latest = {receipt.shard: receipt for receipt in iter_manifest(location)}
    for shard, receipt in latest.items():
        if shard not in changed:
            assert receipt == before[shard]
    whole = {receipt.shard: receipt for receipt in iter_manifest(RunLocation.open(str(undisturbed)))}
    assert {s: {t: p.sha256 for t, p in r.parts.items()} for s, r in latest.items()} == {
        s: {t: p.sha256 for t, p in r.parts.items()} for s, r in whole.items()
    }
    status = run_status(location)
    assert (status.is_complete, status.retried, status.quarantined) == (True, len(changed), 3)

    again = annotate(str(source), str(lacking), stub_config(), options=RETRY)
    assert (again.retry.num_images, again.retry.num_shards_changed) == (3, 0)
    assert {receipt.shard: receipt for receipt in iter_manifest(location)} == latest


def is_held(out: Path) -> bool:
    return any('"is_released": false' in path.read_text() for path in (out / "_lock").glob("claim-*"))


def has_committed(out: Path) -> bool:
    return any((out / "_receipts").glob("*.g1.json"))


@pytest.mark.long
@pytest.mark.parametrize("moment", [is_held, has_committed])
def test_a_retry_killed_anywhere_is_finished_by_the_same_command(ray_session, undisturbed, source, tmp_path, moment):
    # Slow from the start on, as options are part of the identity.
    out, slow = tmp_path / "slow", "masks.options={sleep_s: 0.4}"
    start_lacking(source, out, slow)
    driver = started(source, out, slow, "--retry-failed")
    driver.wait_until(lambda: moment(out), moment.__name__)
    driver.kill()
    summary = annotate(str(source), str(out), stub_config(slow), options=RETRY)
    assert "missing" not in summary.totals.reasons
    assert_equal_tables(out, undisturbed)


@pytest.mark.long
def test_gc_beside_a_live_retry_takes_nothing_that_counts(lacking, undisturbed, source):
    location = RunLocation.open(str(lacking))
    is_over = threading.Event()

    def collect() -> None:
        while not is_over.is_set():
            run_gc(location)

    collecting = threading.Thread(target=collect)
    collecting.start()
    try:
        summary = annotate(str(source), str(lacking), stub_config(), options=RETRY)
    finally:
        is_over.set()
        collecting.join()
    assert summary.retry.num_recovered == 3
    assert_equal_tables(lacking, undisturbed)


def test_an_extended_run_annotates_what_source_has_gained_and_touches_nothing_else(ray_session, tmp_path):
    source, out = write_source(tmp_path / "in", num_images=6), tmp_path / "out"
    work_off(source, out, stub_config())
    before = {path.name: path.stat().st_mtime_ns for path in (out / "masks").iterdir()}
    (source / "a" / "image-001-new.png").write_bytes(png(seed=99))
    (source / "z").mkdir()
    (source / "z" / "new.png").write_bytes(png(seed=100))
    (source / "b" / "image-001.png").unlink()
    (source / "c" / "image-002.png").write_bytes(png(seed=101))

    dry = dry_run(str(source), str(out), stub_config(), options=RunOptions(is_extension=True))
    assert (dry.extension.num_images, dry.num_images, dry.num_shards) == (2, 11, 4)
    events = []
    summary = annotate(
        str(source), str(out), stub_config(), options=RunOptions(is_extension=True), on_event=events.append
    )
    assert (summary.is_complete, summary.num_planned_images, summary.num_images_now) == (True, 11, 2)
    texts = [event.text for event in events if isinstance(event, Notice)]
    assert texts[0] == "SOURCE has 2 new images, planned in 1 new shards"
    assert texts[1].startswith("1 planned images have changed since they were planned (c/image-002.png)")
    assert texts[2].startswith("1 planned images are no longer listed (b/image-001.png)")
    after = {path.name: path.stat().st_mtime_ns for path in (out / "masks").iterdir()}
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 1
    assert verify_run(RunLocation.open(str(out))).is_clean
    again = annotate(str(source), str(out), stub_config())
    assert (again.num_planned_images, again.num_images_now) == (11, 0)


@pytest.mark.long
@pytest.mark.parametrize("die_at", ["plan", "header", "planned"])
def test_a_driver_killed_before_its_first_shard_is_followed_by_a_whole_run(die_at, source, undisturbed, tmp_path):
    driver = started(source, tmp_path, die_at=die_at)
    assert driver.process.wait(timeout=DEADLINE_S) == -signal.SIGKILL
    assert (tmp_path / HEADER_NAME).exists() == (die_at == "planned")
    assert list((tmp_path / "_plan" / "g0001").glob("*.parquet"))

    summary = annotate(str(source), str(tmp_path), stub_config())
    assert summary.is_complete
    assert part_digests(tmp_path) == part_digests(undisturbed)


def test_a_relative_source_is_the_same_from_another_folder(ray_session, tmp_path, monkeypatch):
    source = write_source(tmp_path / "photos", num_images=2)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    work_off("photos", "out", stub_config())
    location = RunLocation.open(str(tmp_path / "out"))
    header = read_header(location)
    assert header.source == str(source)

    monkeypatch.chdir(tmp_path / "elsewhere")
    again = annotate("../photos", str(tmp_path / "out"), stub_config())
    assert again.num_shards_before == again.num_planned_shards
    (entry, *_) = read_shard_plan(location, header, 0)
    read = PlannedImages(location, header).read(entry.shard, [entry.key])
    assert [*read] == [(entry.key, (source / entry.key).read_bytes())]
