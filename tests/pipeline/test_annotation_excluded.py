"""A run that leaves out a benchmark's images: by name before the plan, by content when they are read."""

from __future__ import annotations

import shutil

import pyarrow.parquet as pq
import pytest

from pseudoris.interchange.exclusions import read_exclusions
from pseudoris.pipeline.annotation import annotate, dry_run
from pseudoris.pipeline.run_contract import RunOptions
from pseudoris.schemas.errors import ConfigError
from pseudoris.store.checks.verification import verify_run
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.pending_work import Notice
from tests.builders.images import encode, random_pixels
from tests.builders.runs import BROKEN, stub_config, write_source

pytestmark = pytest.mark.ray

# Of `write_source`: image 0 by name, 1 by its bytes, 2 as a copy in another format, 5 is left.
BY_NAME, BY_BYTES, BY_LOOK = "a/image-000.png", "b/image-001.png", "c/image-002.png"


@pytest.fixture(scope="module")
def run(ray_session, tmp_path_factory):
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


def test_by_name_an_image_is_not_planned_by_content_it_is_quarantined(run):
    _, out, _, summary, events = run
    keys = set(pq.read_table(out / "images")["key"].to_pylist())
    assert BY_NAME not in keys
    assert len(keys) == summary.num_planned_images == 5 + len(BROKEN)
    assert summary.totals.reasons["excluded"] == 2
    assert failures(out)[BY_BYTES] == ("excluded", "excluded by bench: its sha256 is listed")
    assert failures(out)[BY_LOOK][1] == "excluded by bench: its perceptual hash is within 0 bits of a listed one"
    notices = [event.text for event in events if isinstance(event, Notice)]
    assert notices[0] == "held-out.txt excludes 1 of the listed images: they are not planned"
    assert verify_run(RunLocation.open(str(out))).is_clean


def test_a_retry_does_not_bring_an_excluded_image_back(run):
    plan = dry_run(str(run[0]), str(run[1]), stub_config(), options=RunOptions(is_retry=True))
    assert plan.num_to_retry == len(BROKEN)


def test_a_resume_without_exclusions_keeps_them_and_another_one_is_refused(run):
    source, out, options, summary, _ = run
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


def test_a_dry_run_of_named_images_counts_the_others_and_refuses_names_that_source_lacks(run, tmp_path):
    (tmp_path / "train.txt").write_text(f"image-001.png\n{BY_LOOK}\nelsewhere.png\n")
    (tmp_path / "none.txt").write_text("elsewhere.png\n")
    source, out = str(run[0]), str(tmp_path / "new")
    rules = read_exclusions([], only=[str(tmp_path / "train.txt")])
    plan = dry_run(source, out, stub_config(), options=RunOptions(exclusions=rules))
    assert (plan.num_images, plan.num_excluded) == (2, 4 + len(BROKEN))
    assert "; 1 of its 3 names are not in SOURCE" in plan.left_out[0]
    nothing = RunOptions(exclusions=read_exclusions([], only=[str(tmp_path / "none.txt")]))
    with pytest.raises(ConfigError, match=r"left out by --only none\.txt: there is nothing to plan"):
        dry_run(source, out, stub_config(), options=nothing)
