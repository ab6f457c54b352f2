"""A part of a run that is gone, cut or changed: every reader names the remedy, and `--repair` brings back its bytes."""

from __future__ import annotations

import os
import pickle
import shutil
from contextlib import ExitStack
from functools import reduce
from operator import getitem
from pathlib import Path

import pyarrow.dataset as ds
import pytest
import ray

import pseudoris
from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.tables import SCHEMAS
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.lock import LockTimes, RunLock
from pseudoris.store.runs.receipts import RootDigest, latest_receipts
from tests.builders.command import pseudoris_here, start_pseudoris, wait_for
from tests.builders.human import write_small_refer
from tests.builders.images import png
from tests.builders.plain_runs import work_off
from tests.builders.runs import SMALL, STUBS, stub_config, write_source
from tests.builders.scored_runs import scored_run
from tests.builders.seals import forge_header
from tests.store.builders import parts

SETTINGS = tuple(word for assignment in (*STUBS, *SMALL) for word in ("--set", assignment))
REMEDY = "Run the `pseudoris annotate` command of this run again with --repair"


def damage(location: RunLocation, kind: str, table: str, *shards: int) -> None:
    """Take, cut or change the part of a table of some shards: every page, or the name of a column in the footer."""
    for receipt in latest_receipts(location):
        if receipt.shard in shards:
            path = f"{table}/{receipt.parts[table].name}"
            data = location.read_bytes(path)
            if kind == "missing":
                location.delete(path)
                continue
            end = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
            changed = {
                "cut": data[:60],
                "flipped": data[:4] + bytes(byte ^ 4 for byte in data[4:end]) + data[end:],
                "renamed": data[:end] + data[end:].replace(b"area_px", b"area_qx"),
            }
            location.replace(path, changed[kind])


def annotated(source: Path, out: object, *words: str, code: int = 0) -> str:
    ended = pseudoris_here("annotate", "--preset=tiny", str(source), str(out), *SETTINGS, *words, code=code)
    return ended.stdout + ended.stderr


def root(location: RunLocation) -> str:
    return RootDigest(require_header(location), latest_receipts(location)).hexdigest()


def contents(location: RunLocation) -> dict[str, bytes]:
    """Return every part and every receipt by its path."""
    return parts(location, "_receipts")


READERS = (
    "verify OUT",
    "stats OUT",
    "sample OUT --columns key,text,mask_id,segmentation",
    "parts OUT --table masks",
    "export OUT NEW --format parquet",
    "export OUT NEW --format coco",
    "gallery OUT --to NEW",
    "refilter OUT NEW --tau 1.2",
    "audit draw OUT NEW",
    "train student OUT --out NEW",
)


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A run for each kind of damage, in the masks of its second shard."""
    folder = tmp_path_factory.mktemp("broken")
    scored_run(RunLocation.open(str(folder / "renamed")), num_shards=2)
    for kind in ("missing", "cut", "flipped"):
        shutil.copytree(folder / "renamed", folder / kind)
        damage(RunLocation.open(str(folder / kind)), kind, "masks", 1)
    damage(RunLocation.open(str(folder / "renamed")), "renamed", "masks", 1)
    return folder


@pytest.mark.parametrize("kind", ["missing", "cut", "flipped"])
@pytest.mark.parametrize("words", READERS)
def test_every_reader_names_the_remedy(broken, tmp_path, kind, words):
    if (words, kind) == ("parts OUT --table masks", "flipped"):
        pytest.skip("it opens no file: what reads them finds it")
    places = {"OUT": str(broken / kind), "NEW": str(tmp_path / "new")}
    code = 1 if words.startswith("verify") else 2
    told = pseudoris_here(*(places.get(word, word) for word in words.split()), code=code)
    assert REMEDY in told.stdout + told.stderr


@pytest.mark.parametrize("kind", ["missing", "cut", "flipped", "renamed"])
def test_the_public_api_gives_no_row_of_a_damaged_part(broken, kind):
    run = pseudoris.open_run(str(broken / kind))
    assert run[0].masks.any()
    with pytest.raises(ConfigError, match=REMEDY):
        _ = run[-2]
    masks = {
        "to_table": lambda table: table.to_table(columns=["area_px"]),
        "to_batches": lambda table: list(table.to_batches()),
        "filter": lambda table: table.filter(ds.field("area_px") > 0).to_table(),
        "pickled": lambda table: pickle.loads(pickle.dumps(table)).to_table(),
        "head": lambda table: table.head(1_000),
        "sort_by": lambda table: table.sort_by("area_px").to_table(),
        "take": lambda table: table.take([0]),
    }
    if kind != "flipped":
        # A page is not read by the one, and of the others Arrow says it.
        masks["count_rows"] = lambda table: table.count_rows(filter=ds.field("area_px").is_null())
        masks["scanner"] = lambda table: table.scanner().to_table()
        masks["get_fragments"] = lambda table: [part.to_table() for part in table.get_fragments()]
    for read in masks.values():
        with pytest.raises(ConfigError, match=REMEDY):
            read(run.masks())
    assert run.expressions().to_table().num_rows


@pytest.fixture(scope="module")
def whole(stub_engines, tmp_path_factory):
    """A finished run of 21 images in six shards, three images quarantined; source and output."""
    folder = tmp_path_factory.mktemp("whole")
    source = write_source(folder / "in")
    work_off(source, folder / "out", stub_config())
    return source, folder / "out"


@pytest.fixture
def damaged(ray_session, whole, tmp_path):
    """A copy of the run with damage of each kind in four of its shards; source, copy and what it was."""
    source, out = whole
    shutil.copytree(out, tmp_path / "out")
    location = RunLocation.open(str(tmp_path / "out"))
    before = contents(location)
    damage(location, "missing", "masks", 0)
    damage(location, "cut", "expressions", 2)
    damage(location, "flipped", "images", 2, 3)
    for table in SCHEMAS:
        damage(location, "missing", table, 4)
    return source, tmp_path / "out", before


def test_damage_of_each_kind_comes_back_and_sound_parts_are_not_written(damaged):
    source, out, before = damaged
    location = RunLocation.open(str(out))
    digest = root(location)
    told = annotated(source, out, code=2)
    assert "is missing, although a receipt names it" in told
    assert REMEDY in told
    sound = [path for path, data in contents(location).items() if before.get(path) == data]
    for path in sound:
        os.utime(out / path, (1, 1))
    left = contents(location)
    assert "4 shards with missing or damaged parts" in annotated(source, out, "--repair", "--dry-run")
    assert contents(location) == left
    told = annotated(source, out, "--repair")
    assert "4 of 6 shards have missing or damaged parts: they are written again" in told
    assert "continuing: 2 of 6 shards are already committed" in told
    assert contents(location) == before
    assert all((out / path).stat().st_mtime == 1 for path in sound)
    pseudoris_here("verify", str(out), "--root", digest, code=0)
    assert "nothing to repair" in annotated(source, out, "--repair")


@pytest.mark.slow
@pytest.mark.long
def test_parts_in_a_bucket_come_back(ray_session, tmp_path, s3_server, s3_bucket, monkeypatch):
    source = write_source(tmp_path / "in", num_images=6)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint_url)
    at, out = f"source.endpoint_url={s3_server.endpoint_url}", f"s3://{s3_bucket}/out"
    work_off(source, out, stub_config(at))
    location = RunLocation.open(out, s3_server.endpoint_url)
    before = contents(location)
    for number, kind in enumerate(("missing", "cut", "flipped")):
        damage(location, kind, "masks", number)
    assert REMEDY in pseudoris_here("stats", out, code=2).stderr
    assert "3 of 3 shards" in annotated(source, out, "--set", at, "--repair")
    assert contents(location) == before


def test_an_image_that_has_changed_is_named_and_nothing_is_written_of_its_shard(ray_session, tmp_path):
    images, out = write_source(tmp_path / "in", num_images=9), tmp_path / "out"
    work_off(images, out, stub_config())
    location = RunLocation.open(str(out))
    before = contents(location)
    damage(location, "missing", "masks", 0, 1)
    (images / "a" / "image-000.png").write_bytes(png(seed=77))
    told = annotated(images, out, "--repair", code=2)
    assert "shard 0 cannot be repaired: image a/image-000.png is changed" in told
    # The other shard came back.
    (lost,) = before.keys() - contents(location).keys()
    assert lost.startswith("masks/shard-00000000.")
    assert {path: data for path, data in before.items() if path != lost} == contents(location)


def test_what_gives_other_bytes_now_is_refused(ray_session, whole, tmp_path):
    """As another version of a model would: the stub's masks follow the seed, and the header is forged to name this."""
    source, out = whole[0], tmp_path / "out"
    shutil.copytree(whole[1], out)
    location = RunLocation.open(str(out))
    sections = ("identity", "method", "compute"), ("config", "compute")
    forge_header(location, lambda tree: [reduce(getitem, path, tree).update(seed=5) for path in sections])
    damage(location, "missing", "masks", 0, 3)
    damage(location, "cut", "images", 0)
    left = contents(location)
    told = annotated(source, out, "--repair", "--set", "compute.seed=5", code=2)
    assert "shard 0 cannot be repaired: its images, models or packages give other bytes now" in told
    assert contents(location) == left


@pytest.mark.long
def test_a_retried_shard_comes_back_as_its_retry_left_it(ray_session, tmp_path):
    source, out = write_source(tmp_path / "in", num_images=12), tmp_path / "out"
    hidden = [source / "a" / "image-003.png", source / "b" / "image-007.png"]

    def hide() -> None:
        for path in hidden:
            path.rename(path.with_suffix(".hidden"))

    # A fault that is over before the repair: of the first run, and of the retry in both of its processes.
    fault = ["masks.options.raises_on=c/image-002.png", "masks.options.raises_times=3"]
    fault.append(f"masks.options.tally={tmp_path / 'tally'}")
    words = [word for setting in fault for word in ("--set", setting)]
    work_off(source, out, stub_config(*fault), on_planned=hide)
    hidden[0].with_suffix(".hidden").rename(hidden[0])
    annotated(source, out, "--retry-failed", *words)
    assert (tmp_path / "tally").read_bytes() == b"..."
    location = RunLocation.open(str(out))
    before = contents(location)
    generations = {receipt.shard: receipt.generation for receipt in latest_receipts(location)}
    assert set(generations.values()) == {0, 1}
    # This one could be read by now, and the other computed, but only a retry may say so.
    hidden[1].with_suffix(".hidden").rename(hidden[1])
    for table in ("images", "masks", "expressions"):
        damage(location, "missing", table, *generations)
    annotated(source, out, "--repair", *words)
    assert contents(location) == before


@pytest.mark.long
def test_a_run_with_the_masks_of_another_and_a_refilter_come_back_from_their_parents(ray_session, tmp_path):
    source, parent = write_source(tmp_path / "in", num_images=9), tmp_path / "parent"
    work_off(source, parent, stub_config())
    kept = (word for word in (*STUBS, *SMALL) if not word.startswith(("masks.", "shards.")))
    without_masks = [word for assignment in kept for word in ("--set", assignment)]
    for name, words in {
        "masks": ("annotate", "--preset=tiny", str(source), "NEW", *without_masks, "--masks-from", str(parent)),
        "kept": ("refilter", str(parent), "NEW", "--tau", "1.2"),
    }.items():
        out = tmp_path / name
        command = [each.replace("NEW", str(out)) for each in words]
        pseudoris_here(*command, code=0)
        location = RunLocation.open(str(out))
        before = contents(location)
        damage(location, "missing", "masks", 1)
        damage(location, "cut", "expressions", 1, 2)
        told = pseudoris_here(*command, code=2)
        assert f"Run the `pseudoris {words[0]}` command of this run again with --repair" in told.stderr
        pseudoris_here(*command, "--repair", code=0)
        assert contents(location) == before


@pytest.mark.slow
@pytest.mark.long
def test_an_import_comes_back(tmp_path):
    annotation, images = write_small_refer(tmp_path)
    out = tmp_path / "out"
    words = ("import", str(annotation), str(images), str(out), "--shard-size", "2")
    pseudoris_here(*words, code=0)
    location = RunLocation.open(str(out))
    before = contents(location)
    damage(location, "flipped", "masks", 0)
    damage(location, "missing", "expressions", 0, 1)
    told = pseudoris_here("stats", str(out))
    assert "Run the `pseudoris import` command of this run again with --repair" in told.stderr
    pseudoris_here(*words, "--repair", code=0)
    assert contents(location) == before


def test_a_live_run_and_what_else_does_not_fit_is_refused(damaged):
    source, out, _ = damaged
    location = RunLocation.open(str(out))
    kept = contents(location)
    with ExitStack() as stack:
        stack.enter_context(RunLock.held(location, times=LockTimes(heartbeat_s=0.2)))
        assert "is working on" in annotated(source, out, "--repair", code=2)
    assert "--extend and --retry-failed exclude each other" in annotated(source, out, "--repair", "--extend", code=2)
    assert contents(location) == kept


@pytest.mark.slow
@pytest.mark.ray
def test_a_repair_that_is_killed_goes_on_with_what_is_left(ray_session, tmp_path):
    source, out = write_source(tmp_path / "in", num_images=9), tmp_path / "out"
    slow = "masks.options={sleep_s: 0.2}"
    work_off(source, out, stub_config(slow))
    location = RunLocation.open(str(out))
    before = contents(location)
    damage(location, "missing", "masks", *range(3))
    damage(location, "cut", "images", *range(3))
    address = ("--address", ray.get_runtime_context().gcs_address)
    words = ("annotate", "--preset=tiny", str(source), str(out), *SETTINGS, "--set", slow, "--repair", *address)
    killed = start_pseudoris(*words)
    wait_for(lambda: len(list(location.list("masks"))) > 0)
    killed.kill()
    killed.wait()
    left = contents(location)
    assert 0 < sum(path.startswith("masks/") for path in left) < 3
    # What is there is whole: an old part, or the new one.
    assert all(data in (before[path], before[path][:60]) for path, data in left.items())
    pseudoris_here("gc", str(out), code=0)
    pseudoris_here(*words, code=0)
    assert contents(location) == before


@pytest.mark.slow
@pytest.mark.long
def test_a_degraded_shard_comes_back_with_its_own_tiles(ray_session, tmp_path):
    source, out = write_source(tmp_path / "in", num_images=1), tmp_path / "out"
    # 64 points of 8 MB where 400 MB are allowed: half of them fit.
    short = ("masks.points_per_batch=64", "masks.options={mb_per_point: 8, allowed_mb: 400}")
    settings = [word for assignment in short for word in ("--set", assignment)]
    annotated(source, out, *settings, "--allow-degraded")
    location = RunLocation.open(str(out))
    before, (receipt,) = contents(location), latest_receipts(location)
    assert receipt.degraded == {"masks.points_per_batch": 32}
    damage(location, "missing", "masks", receipt.shard)
    annotated(source, out, *settings, "--repair")
    assert contents(location) == before
