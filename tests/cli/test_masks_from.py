"""`pseudoris annotate` with masks of others: of a finished run, or those that a table of instances chooses."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from pseudoris.files.location import RunLocation
from pseudoris.pipeline.annotation import annotate, dry_run
from pseudoris.pipeline.sample_estimate import estimate
from pseudoris.primitives.errors import ConfigError
from pseudoris.store.runs.header import require_header
from tests.builders.command import OPTIONS, pseudoris, pseudoris_here
from tests.builders.images import png
from tests.builders.plain_runs import work_off
from tests.builders.runs import STUBS, part_digests, stub_config, write_source

pytestmark = pytest.mark.ray
FAILS = "masks.options={raises_on: b/image-004.png}"
REST = "filtering.tau=1.2"


@pytest.fixture(scope="module")
def parent(ray_session, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parent")
    source = write_source(folder / "in", num_images=10)
    work_off(source, folder / "out", stub_config(FAILS))
    return source, folder / "out"


def taking(run, *assignments):
    return stub_config(f"placement.masks_from={run}", *assignments)


@pytest.fixture(scope="module")
def taken(parent):
    """A run with the masks of `parent` and another tau; its folder and summary."""
    source, run = parent
    # Its own mask settings do not count: a proposer that cannot load is not asked.
    return run.parent / "taken", annotate(
        str(source), str(run.parent / "taken"), taking(run, "masks.options={fault: load}", REST)
    )


def test_the_tables_equal_those_of_a_run_from_scratch_and_no_proposer_is_loaded(parent, taken, tmp_path):
    (source, run), (out, summary) = parent, taken
    scratch = work_off(source, tmp_path / "whole", stub_config(FAILS, REST))
    assert part_digests(out) == part_digests(tmp_path / "whole") != part_digests(run)
    assert summary.totals.reasons["stage_error"] == 1
    assert set(summary.totals.seconds) == {"read", "caption", "filter"}
    header = require_header(RunLocation.open(str(out)))
    assert header.parent.location == str(run)
    assert header.identity == scratch.identity
    pseudoris_here("verify", str(out), code=0)


@pytest.mark.long
def test_staged_tables_equal_those_of_fused_ones(parent, taken, tmp_path):
    source, run = parent
    annotate(str(source), str(tmp_path / "out"), taking(run, REST, "placement.mode=staged"))
    assert part_digests(tmp_path / "out") == part_digests(taken[0])


def test_real_masks_pass_through_their_table_unchanged(ray_session, tiny_run, tmp_path):
    # Captions of a stub: only masks pass through.
    settings = (f"--set={each}" for each in STUBS[1:])
    words = (str(tiny_run.source), str(tmp_path / "out"), "--masks-from", str(tiny_run.out), *OPTIONS, *settings)
    pseudoris_here("annotate", *words, code=0)
    masks = [
        {path: digest for path, digest in part_digests(out).items() if path.startswith("masks/")}
        for out in (tmp_path / "out", tiny_run.out)
    ]
    assert masks[0] == masks[1] != {}


def test_an_image_that_has_changed_is_quarantined(ray_session, tmp_path):
    source, run, out = write_source(tmp_path / "in", num_images=1), tmp_path / "run", tmp_path / "out"
    work_off(source, run, stub_config())
    image = source / "a" / "image-000.png"
    # The plan would tell by size or time: an object store without versions gives neither.
    before, size = image.stat(), image.stat().st_size
    other = png(height=6, width=9, seed=77)
    image.write_bytes(other[:size].ljust(size, b"\0"))
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    summary = annotate(str(source), str(out), taking(run))
    assert summary.totals.reasons["changed"] == 1
    rows = pq.read_table(out / "failures").to_pylist()
    assert "since its masks were proposed" in next(row["message"] for row in rows if row["reason"] == "changed")


def test_the_dry_run_names_the_run_and_its_plan(parent, tmp_path):
    source, run = parent
    plan = dry_run(str(source), str(tmp_path / "out"), taking(run))
    assert plan.weights["propose"][0] == f"masks of {run}"
    assert (plan.num_images, plan.num_shards) == (13, 4)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [(("--limit", "3"), "leave out --limit, --extend, --exclude and --only"), (("--masks-from", "nowhere"), "nowhere")],
)
def test_what_would_change_the_plan_or_the_masks_is_refused(parent, tmp_path, words, message):
    source, run = parent
    failed = pseudoris_here("annotate", str(source), str(tmp_path / "out"), "--masks-from", str(run), *words, code=2)
    assert message in failed.stderr
    assert not (tmp_path / "out" / "_run.json").exists()


def test_a_run_goes_on_only_as_it_was_started(parent, taken, tmp_path):
    (source, run), (out, _) = parent, taken
    other = write_source(tmp_path / "other", num_images=1)
    told = r"holds masks of the images in .*in', but SOURCE is .*other': give the first"
    with pytest.raises(ConfigError, match=told):
        annotate(str(other), str(tmp_path / "out"), taking(run))
    # What its remedy names for images that have moved.
    source.rename(tmp_path / "moved")
    with pytest.raises(ConfigError, match=r"give the first one\. If its images have moved, let a link there lead to"):
        annotate(str(tmp_path / "moved"), str(tmp_path / "out"), taking(run))
    source.symlink_to(tmp_path / "moved")
    assert dry_run(str(source), str(tmp_path / "out"), taking(run)).num_images == 13
    source.unlink()
    (tmp_path / "moved").rename(source)
    with pytest.raises(ConfigError, match=f"takes its masks from {run}: add --masks-from {run} to continue"):
        annotate(str(source), str(out), stub_config(REST))
    with pytest.raises(ConfigError, match="proposes its own masks: leave --masks-from out"):
        annotate(str(source), str(run), taking(out))
    with pytest.raises(ConfigError, match=r"leave placement\.masks_from out"):
        estimate(str(source), taking(run), size=2)


def masks_of(out) -> list[dict]:
    return ds.dataset(out / "masks").to_table().to_pylist()


def chosen_by(tiny_run, tmp_path, instances: pa.Table, *settings: str) -> Path:
    """Return a run whose masks these instances chose; it verifies, and each mask says which row chose it."""
    path, out = tmp_path / "instances", tmp_path / "out"
    pq.write_table(instances, path)
    options = [f"--set=masks.prior.{each}" for each in ("kind=table", f"path={path}", "match=iou", *settings)]
    pseudoris("annotate", "--preset=tiny", str(tiny_run.source), str(out), *OPTIONS, *options, code=0)
    assert {row["prior"] for row in masks_of(out)} == {f"table:{row}" for row in range(len(instances))}
    pseudoris("verify", str(out), code=0)
    return out


@pytest.mark.long
def test_the_instances_choose_their_masks_and_each_says_which_row_chose_it(tiny_run, tmp_path):
    masks = ds.dataset(tiny_run.out / "masks").to_table()
    out = chosen_by(tiny_run, tmp_path, masks)
    # SAM proposes the same again, so each instance finds its own mask.
    chosen, before = ({row["mask_id"]: row["segmentation"] for row in masks_of(each)} for each in (out, tiny_run.out))
    assert chosen == before


@pytest.mark.long
def test_in_paper_a_mask_that_two_instances_choose_is_there_twice_and_says_nothing_distinctive(tiny_run, tmp_path):
    masks = ds.dataset(tiny_run.out / "masks").to_table()
    both = pa.concat_tables([masks, masks])
    out = chosen_by(tiny_run, tmp_path, both, "duplicates=keep", "untouched=first_mask")
    assert len({row["mask_id"] for row in masks_of(out)}) == 2 * len(masks)
    expressions = ds.dataset(out / "expressions").to_table().to_pylist()
    assert expressions
    assert max(row["distinctiveness"] for row in expressions) == 1.0
    assert not any(row["kept"] for row in expressions)
