"""`pseudoris annotate --masks-from RUN`: captions anew on the masks of a finished run."""

from __future__ import annotations

import os

import pyarrow.parquet as pq
import pytest

from pseudoris.pipeline.annotation import annotate, dry_run
from pseudoris.pipeline.sample_estimate import estimate
from pseudoris.schemas.errors import ConfigError
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.header import require_header
from tests.builders.command import OPTIONS, pseudoris_here
from tests.builders.images import png
from tests.builders.runs import part_digests, stub_config, write_source

pytestmark = pytest.mark.ray
FAILS = "masks.options={raises_on: b/image-004.png}"


@pytest.fixture(scope="module")
def parent(ray_session, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parent")
    source = write_source(folder / "in", num_images=10)
    annotate(str(source), str(folder / "out"), stub_config(FAILS))
    return source, folder / "out"


def taking(run, *assignments):
    return stub_config(f"placement.masks_from={run}", *assignments)


@pytest.mark.parametrize("mode", ["fused", pytest.param("staged", marks=pytest.mark.long)])
def test_the_tables_equal_those_of_a_run_from_scratch_and_no_proposer_is_loaded(parent, tmp_path, mode):
    source, run = parent
    rest = ("filtering.tau=1.2", f"placement.mode={mode}")
    whole = annotate(str(source), str(tmp_path / "whole"), stub_config(FAILS, *rest))
    # Its own mask settings do not count: a proposer that cannot load is not asked.
    summary = annotate(str(source), str(tmp_path / "out"), taking(run, "masks.options={fault: load}", *rest))
    assert part_digests(tmp_path / "out") == part_digests(tmp_path / "whole") != part_digests(run)
    assert summary.totals.reasons == whole.totals.reasons
    assert summary.totals.reasons["stage_error"] == 1
    assert set(summary.totals.seconds) == {"read", "caption", "filter"}
    header, scratch = (require_header(RunLocation.open(str(tmp_path / name))) for name in ("out", "whole"))
    assert header.parent.location == str(run)
    assert header.identity == scratch.identity
    assert pseudoris_here("verify", str(tmp_path / "out")).returncode == 0


def test_real_masks_pass_through_their_table_unchanged(ray_session, tiny_run, tmp_path):
    words = ("annotate", str(tiny_run.source), str(tmp_path / "out"), "--masks-from", str(tiny_run.out), *OPTIONS)
    done = pseudoris_here(*words)
    assert done.returncode == 0, done.stderr
    assert part_digests(tmp_path / "out") == part_digests(tiny_run.out)
    assert pseudoris_here(*words).returncode == 0


def test_an_image_that_has_changed_is_quarantined(ray_session, tmp_path):
    source, run, out = write_source(tmp_path / "in", num_images=4), tmp_path / "run", tmp_path / "out"
    annotate(str(source), str(run), stub_config())
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
    [
        (("--limit", "3"), "leave out --limit, --extend, --exclude and --only"),
        (("--masks-from", "nowhere"), "nowhere"),
    ],
)
def test_what_would_change_the_plan_or_the_masks_is_refused(parent, tmp_path, words, message):
    source, run = parent
    failed = pseudoris_here("annotate", str(source), str(tmp_path / "out"), "--masks-from", str(run), *words)
    assert failed.returncode == 2
    assert message in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not (tmp_path / "out" / "_run.json").exists()


def test_a_run_goes_on_only_as_it_was_started(parent, tmp_path):
    source, run = parent
    other, out = write_source(tmp_path / "other", num_images=1), str(tmp_path / "out")
    with pytest.raises(
        ConfigError, match=r"holds masks of the images in .*in', but SOURCE is .*other': give the first"
    ):
        annotate(str(other), out, taking(run))
    annotate(str(source), out, taking(run))
    with pytest.raises(ConfigError, match=f"takes its masks from {run}: add --masks-from {run} to continue"):
        annotate(str(source), out, stub_config())
    with pytest.raises(ConfigError, match="proposes its own masks: leave --masks-from out"):
        annotate(str(source), str(run), taking(out))
    with pytest.raises(ConfigError, match=r"leave placement\.masks_from out"):
        estimate(str(source), taking(run), size=2)
