"""A run from images to tables, what ends one, and what it leaves out."""

from __future__ import annotations

import shutil

import pyarrow.parquet as pq
import pytest

from pseudoris.files.location import RunLocation
from pseudoris.interchange.exclusions import read_exclusions
from pseudoris.pipeline import executor
from pseudoris.pipeline.annotation import annotate, dry_run
from pseudoris.pipeline.run_contract import RunOptions
from pseudoris.primitives.errors import ConfigError, TransientError
from pseudoris.schemas.ids import sha256_hex
from pseudoris.store.checks.verification import verify_run
from pseudoris.store.runs.pending_work import Committed, Notice, Planned, Step
from pseudoris.store.runs.receipts import list_receipts
from tests.builders.fitted import POSTERIOR, fitted
from tests.builders.images import encode, random_pixels
from tests.builders.plain_runs import work_off
from tests.builders.runs import BROKEN, part_digests, stub_config, write_source

pytestmark = pytest.mark.ray

FAULTS = ("masks.options={raises_on: b/image-004.png}", "captions.options={blank_on: a/image-000.png}")


@pytest.fixture(scope="module")
def run(ray_session, tmp_path_factory):
    """A run of every end that an image can have; a plug-in's blank caption is one."""
    folder = tmp_path_factory.mktemp("run")
    source = write_source(folder / "in", num_images=18)
    (source / "photo.heic").write_bytes(b"not listed")
    events = []
    config = stub_config(*FAULTS, "placement.fused.max_actors=2")
    summary = annotate(str(source), str(folder / "out"), config, on_event=events.append)
    return source, folder / "out", config, summary, events


def test_every_image_ends_annotated_empty_or_quarantined_with_a_reason(run):
    summary = run[3]
    totals = summary.totals
    assert summary.is_complete
    assert totals.images == 18 + len(BROKEN) == summary.num_images_now
    assert totals.images == totals.annotated + totals.empty + totals.quarantined
    assert totals.reasons == {"empty_file": 1, "not_an_image": 1, "corrupt": 1, "stage_error": 1, "bad_output": 1}
    messages = pq.read_table(run[1] / "failures")["message"].to_pylist()
    assert "the caption stage returned expressions.0.text '   '" in " ".join(messages)
    assert min(totals.annotated, totals.empty) > 0


def test_the_summary_counts_what_the_tables_hold(run):
    _, out, _, summary, _ = run
    tables = {name: pq.read_table(out / name) for name in ("images", "masks", "expressions", "failures")}
    totals = summary.totals
    assert totals.images == tables["images"].num_rows
    assert totals.masks == tables["masks"].num_rows
    assert totals.expressions == tables["expressions"].num_rows < totals.samples
    assert totals.samples == sum(tables["expressions"]["count"].to_pylist()) == 5 * totals.masks
    assert totals.kept == sum(tables["expressions"]["kept"].to_pylist())
    assert totals.quarantined == tables["failures"].num_rows
    assert totals.output_bytes == sum(path.stat().st_size for name in tables for path in (out / name).iterdir())
    assert set(totals.seconds) == {"read", "propose", "caption", "filter"}
    assert summary.tables["expressions"] == str(out / "expressions" / "*.parquet")
    assert summary.left_out[0] == "not listed: 1 .heic"


def test_events_tell_the_steps_of_the_start_the_plan_and_then_each_commit_once(run):
    events = run[4]
    steps = [event.name for event in events if isinstance(event, Step)]
    assert steps == [
        *("opening SOURCE and OUT", "checking weights and packages", "connecting to Ray"),
        *("checking the device", "listing and planning"),
    ]
    notices = [event.text for event in events if isinstance(event, Notice)]
    assert tuple(notices) == run[3].left_out
    planned, *commits = events[len(steps) + len(notices) :]
    assert planned == Planned(num_images=21, num_images_done=0, num_shards=6, num_shards_done=0, actors={"fused": 2})
    assert all(isinstance(event, Committed) for event in commits)
    assert sorted(event.receipt.shard for event in commits) == list(range(6))
    assert all(event.receipt.nodes for event in commits)


def test_a_finished_run_started_again_computes_and_writes_nothing(run):
    source, out, config, summary, _ = run
    before = part_digests(out)
    events = []
    again = annotate(str(source), str(out), config, on_event=events.append)
    assert (again.num_shards_before, again.num_images_now, again.speed) == (6, 0, "–")
    assert again.totals == summary.totals
    assert part_digests(out) == before
    assert len(list((out / "_manifest").iterdir())) == 1
    assert [type(event) for event in events if not isinstance(event, Step)] == [Planned]


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("config", ConfigError, "^the stub was told to fail: take the option away$"),
        pytest.param("load", ConfigError, "^the stub's weights are missing: install them$", marks=pytest.mark.long),
        pytest.param("bug", Exception, "a bug in the stub", marks=pytest.mark.long),
    ],
)
def test_what_a_stage_raises_is_what_the_caller_gets(fault, error, message, ray_session, tmp_path):
    source = write_source(tmp_path / "in", num_images=2)
    with pytest.raises(error, match=message):
        annotate(str(source), str(tmp_path / "out"), stub_config(f"masks.options={{fault: {fault}}}"))


def test_a_run_that_failed_continues_when_the_fault_is_mended(ray_session, tmp_path):
    source = write_source(tmp_path / "in", num_images=5)
    marker = tmp_path / "marker"
    config = stub_config(f"masks.options={{fault: transient, marker: {marker}}}")
    marker.touch()
    with pytest.raises(TransientError, match=r"^the stub's bucket does not answer"):
        annotate(str(source), str(tmp_path / "out"), config)
    marker.unlink()
    assert annotate(str(source), str(tmp_path / "out"), config).is_complete


def test_a_shard_that_fails_alone_is_named_after_the_others_are_committed_and_is_all_that_is_left(
    ray_session, tmp_path
):
    source = write_source(tmp_path / "in", num_images=9)
    config = stub_config("masks.options={breaks_on: a/image-000.png}")
    with pytest.raises(
        TransientError, match=r"^not committed: shard 0\. All other shards are\..*\n  shard 0: OSError: "
    ):
        annotate(str(source), str(tmp_path / "out"), config)
    assert sorted(list_receipts(RunLocation.open(str(tmp_path / "out")))) == [1, 2]
    (source / "a" / "image-000.png").write_bytes(b"mended: quarantined as changed, and no longer seen by the stage")
    again = annotate(str(source), str(tmp_path / "out"), config)
    assert (again.num_shards_before, again.is_complete, again.totals.images) == (2, True, 12)


@pytest.mark.long
def test_a_run_interrupted_in_its_second_window_continues_and_ends_as_an_undisturbed_one(run, tmp_path, monkeypatch):
    source, undisturbed, _, _, _ = run
    # Slow enough for the interrupt to come before the last shard.
    slow = (*FAULTS, "masks.options.sleep_s=0.4", "placement.max_tasks_in_flight_per_actor=1")
    config = stub_config(*slow, "placement.fused.max_actors=2")
    monkeypatch.setattr(executor, "MAX_SHARDS", 2)
    seen = []

    def interrupt_at_the_third(event):
        if isinstance(event, Committed):
            seen.append(event.receipt.shard)
            if len(seen) == 3:
                raise KeyboardInterrupt

    summary = annotate(str(source), str(tmp_path), config, on_event=interrupt_at_the_third)
    assert summary.interrupted
    assert set(seen[:2]) == {0, 1}
    assert 3 <= summary.totals.shards < 6
    again = annotate(str(source), str(tmp_path), config)
    assert again.is_complete
    assert again.num_shards_before == summary.totals.shards
    assert part_digests(tmp_path) == part_digests(undisturbed)


def test_a_dry_run_tells_the_plan_and_writes_nothing(ray_session, tmp_path):
    source = write_source(tmp_path / "in", num_images=7)
    (tmp_path / "in" / "photo.heic").write_bytes(b"")
    plan = dry_run(
        str(source), str(tmp_path / "out"), stub_config("masks.weights.uri=here", "placement.fused.max_actors=2")
    )
    assert (plan.num_images, plan.num_shards, plan.num_shards_done) == (10, 3, 0)
    assert plan.actors == {"fused": 2}
    assert plan.weights["propose"] == ("here", sha256_hex(b"here"))
    assert plan.input_bytes == sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    assert "assuming 5 masks per image" in plan.output_basis
    assert plan.left_out[0] == "not listed: 1 .heic"
    assert not (tmp_path / "out").exists()


def test_embedded_images_count_in_the_estimate(ray_session, tmp_path):
    source = write_source(tmp_path / "in", num_images=2)
    plans = [
        dry_run(str(source), str(tmp_path / "out"), stub_config(f"shards.embed_images={embed}"), options=RunOptions(2))
        for embed in ("false", "true")
    ]
    assert plans[1].num_images == 2
    assert plans[1].output_bytes - plans[0].output_bytes == plans[1].input_bytes > 0


def test_a_dry_run_of_a_run_tells_its_plan_and_estimates_from_what_is_committed(ray_session, tmp_path):
    source, out = write_source(tmp_path / "in", num_images=2), tmp_path / "out"
    work_off(source, out, stub_config())
    write_source(source, num_images=9)
    plan = dry_run(str(source), str(out), stub_config())
    assert (plan.num_images, plan.num_shards, plan.num_shards_done) == (5, 2, 2)
    assert "the 5 images committed so far" in plan.output_basis
    with pytest.raises(ConfigError, match=r"compute\.seed"):
        dry_run(str(source), str(out), stub_config("compute.seed=3"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "num_told"),
    [(" junto al muro verde de la casa", 1), pytest.param(" near a wall", 0, marks=pytest.mark.long)],
)
def test_captions_that_are_not_english_are_told_once_with_the_first_shard_that_lands(
    ray_session, tmp_path, end, num_told
):
    source, events = write_source(tmp_path / "in", num_images=8), []
    config = stub_config(
        f"captions.options={{ends_with: '{end}'}}", "composing={}", fitted(posterior=POSTERIOR.model_dump())
    )
    summary = annotate(str(source), str(tmp_path / "out"), config, on_event=events.append)
    assert summary.is_complete
    planned = next(number for number, event in enumerate(events) if isinstance(event, Planned))
    told = [number for number, event in enumerate(events) if "not in English" in getattr(event, "text", "")]
    # An actor says it of its own first shard, and all of them tell it before the bar counts that shard.
    assert told == [planned + 1] * num_told


# Of `write_source`: image 0 by name, 1 by its bytes, 2 as a copy in another format, 5 is left.
BY_NAME, BY_BYTES, BY_LOOK = "a/image-000.png", "b/image-001.png", "c/image-002.png"


@pytest.fixture(scope="module")
def excluding(ray_session, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    source = write_source(folder / "in", num_images=6)
    (folder / "held-out.txt").write_text("image-000.png\n")
    bench = folder / "bench"
    bench.mkdir()
    shutil.copy(source / BY_BYTES, bench / "renamed.png")
    # `write_source` draws noise of height 8 for it.
    (bench / "copy.webp").write_bytes(encode(random_pixels(8, 9, seed=2), "WEBP", lossless=True))
    options = RunOptions(exclusions=read_exclusions([str(folder / "held-out.txt"), str(bench)], 0))
    events = []
    out = folder / "out"
    summary = annotate(str(source), str(out), stub_config(), options=options, on_event=events.append)
    return source, out, options, summary, events


def failures(out) -> dict[str, tuple[str, str]]:
    keys = {row["image_id"]: row["key"] for row in pq.read_table(out / "images").to_pylist()}
    found = pq.read_table(out / "failures").to_pylist()
    return {keys[row["image_id"]]: (row["reason"], row["message"]) for row in found}


@pytest.mark.long
def test_by_name_an_image_is_not_planned_by_content_it_is_quarantined(excluding):
    _, out, _, summary, events = excluding
    keys = set(pq.read_table(out / "images")["key"].to_pylist())
    assert BY_NAME not in keys
    assert len(keys) == summary.num_planned_images == 5 + len(BROKEN)
    assert summary.totals.reasons["excluded"] == 2
    assert failures(out)[BY_BYTES] == ("excluded", "excluded by bench: its sha256 is listed")
    assert failures(out)[BY_LOOK][1] == "excluded by bench: its perceptual hash is within 0 bits of a listed one"
    notices = [event.text for event in events if isinstance(event, Notice)]
    assert notices[0] == "held-out.txt excludes 1 of the listed images: they are not planned"
    assert verify_run(RunLocation.open(str(out))).is_clean


def test_a_retry_does_not_bring_an_excluded_image_back(excluding):
    plan = dry_run(str(excluding[0]), str(excluding[1]), stub_config(), options=RunOptions(is_retry=True))
    assert plan.num_to_retry == len(BROKEN)


def test_a_resume_without_exclusions_keeps_them_and_another_one_is_refused(excluding):
    source, out, options, summary, _ = excluding
    events = []
    again = annotate(str(source), str(out), stub_config(), on_event=events.append)
    assert again.totals.reasons == summary.totals.reasons
    assert [e.text for e in events if isinstance(e, Notice)] == [
        "the run keeps to --exclude held-out.txt, --exclude bench, as it was planned"
    ]
    assert annotate(str(source), str(out), stub_config(), options=options).totals == summary.totals
    (out.parent / "other.txt").write_text("image-001.png\n")
    other = RunOptions(exclusions=read_exclusions([str(out.parent / "other.txt")]))
    with pytest.raises(ConfigError, match=r"--exclude other\.txt: absent in the run"):
        annotate(str(source), str(out), stub_config(), options=other)


def test_a_dry_run_of_named_images_counts_the_others_and_refuses_names_that_source_lacks(excluding, tmp_path):
    (tmp_path / "train.txt").write_text(f"image-001.png\n{BY_LOOK}\nelsewhere.png\n")
    (tmp_path / "none.txt").write_text("elsewhere.png\n")
    source, out = str(excluding[0]), str(tmp_path / "new")
    rules = read_exclusions([], only=[str(tmp_path / "train.txt")])
    plan = dry_run(source, out, stub_config(), options=RunOptions(exclusions=rules))
    assert (plan.num_images, plan.num_excluded) == (2, 4 + len(BROKEN))
    assert "; 1 of its 3 names are not in SOURCE" in plan.left_out[0]
    nothing = RunOptions(exclusions=read_exclusions([], only=[str(tmp_path / "none.txt")]))
    with pytest.raises(ConfigError, match=r"left out by --only none\.txt: there is nothing to plan"):
        dry_run(source, out, stub_config(), options=nothing)
