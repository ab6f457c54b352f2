"""A run as pyarrow datasets, on a disk and on S3, and its images for Python and notebooks."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

import pseudoris
from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.shard import ExpressionRecord
from pseudoris.schemas.stage_settings import ImagesConfig
from pseudoris.schemas.tables import EXPRESSIONS, IMAGES, MASKS
from pseudoris.store.runs.receipts import latest_receipts, part_path
from pseudoris.store.tables.annotations import AnnotatedImage, AnnotatedMask
from pseudoris.store.tables.open_run import OpenRun
from pseudoris.store.tables.run_image import RunImage
from pseudoris.store.tables.run_reader import Run, draw_rows
from tests.builders.scored_runs import begin, commit_scored, scored_run
from tests.store.builders import make_mask


def test_tables_are_exactly_what_the_receipts_name(location):
    header = begin(location, num_shards=3)
    for shard in (0, 2):
        commit_scored(location, header, shard)
    commit_scored(location, header, 0, generation=1)
    # What a killed writer leaves: a part that reads well, and that no receipt names.
    path = part_path(EXPRESSIONS, next(latest_receipts(location)).parts[EXPRESSIONS])
    location.put_part(re.sub(r"\.g\d-", ".g7-", path), location.read_bytes(path))
    run = Run(location)
    for name in ("images", "masks", "expressions", "failures"):
        assert getattr(run, name)().to_table().equals(OpenRun.at(location).table(name)), name
    assert (run.is_complete, run.header.num_shards, run.counts.shards) == (False, 3, 2)
    assert run.counts.expressions == run.expressions().count_rows()
    assert run.counts.images == run.images().count_rows()


def test_a_run_stays_as_it_was_when_it_was_opened(location):
    header = begin(location, num_shards=2)
    commit_scored(location, header, 0)
    run = Run(location)
    commit_scored(location, header, 1)
    assert run.counts.shards == 1
    shown = run.sample(1_000, columns=["image_id"])["image_id"].to_pylist()
    assert set(shown) <= set(run.images().to_table(columns=["image_id"])["image_id"].to_pylist())
    assert Run(location).is_complete


def test_filters_columns_and_pickles_work_as_of_any_dataset(location):
    scored_run(location)
    dataset = pickle.loads(pickle.dumps(Run(location).expressions()))
    kept = dataset.to_table(columns=["text"], filter=pc.field("kept"))
    assert kept.column_names == ["text"]
    assert kept.num_rows == Run(location).counts.kept > 0
    assert dataset.filter(pc.field("kept")).head(2, columns=["text"]).equals(kept.slice(0, 2).combine_chunks())


@pytest.mark.parametrize("wrong", [{"columns": ["hight"]}, {"filter": pc.field("width") > "x"}])
def test_a_column_or_filter_that_a_table_lacks_is_told_before_a_part_is_read(location, wrong, monkeypatch):
    scored_run(location)
    images, read = Run(location).images(), []
    monkeypatch.setattr(RunLocation, "read_bytes", lambda self, path: read.append(path))
    for asked in (images.to_table, images.count_rows, images.to_batches):
        with pytest.raises((pa.ArrowException, TypeError)):
            list(asked(**wrong))
    assert not read


def test_a_pipe_in_the_place_of_a_part_is_refused_by_name(tmp_path):
    scored_run(location := RunLocation.open(str(tmp_path)))
    part = next((tmp_path / IMAGES).iterdir())
    part.unlink()
    os.mkfifo(part)
    with pytest.raises(ConfigError, match=rf"{part.name} is a pipe"):
        Run(location).images()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    location = RunLocation.open(str(tmp_path_factory.mktemp("sampled") / "run"))
    scored_run(location, num_shards=8, has_humans=True)
    return location


def identity_of(row) -> tuple:
    return row["image_id"], *row["target_mask_ids"], row["text"]


@pytest.mark.parametrize("kept_only", [True, False])
def test_rows_are_those_of_the_table_in_its_order_and_none_twice(run, kept_only):
    whole = OpenRun.at(run).table(EXPRESSIONS)
    whole = whole.filter(whole["kept"]) if kept_only else whole
    order = {identity_of(row): number for number, row in enumerate(whole.to_pylist())}
    rows = Run(run).sample(25, columns=whole.schema.names, kept_only=kept_only).to_pylist()
    places = [order[identity_of(row)] for row in rows]
    assert places == sorted(set(places))
    assert len(places) == 25
    assert all(whole.slice(place, 1).to_pylist() == [row] for place, row in zip(places, rows, strict=True))


def test_columns_of_image_and_mask_are_those_of_the_rows_own(run):
    columns = ["text", "key", "width", "mask_id", "segmentation", "area_px", "target_mask_ids", "image_id"]
    table = Run(run).sample(10**9, columns=columns, kept_only=False)
    assert table.schema.names == columns
    keys = {row["image_id"]: row["key"] for row in OpenRun.at(run).table(IMAGES).to_pylist()}
    masks = {row["mask_id"]: row for row in OpenRun.at(run).table(MASKS).to_pylist()}
    kinds = Counter()
    for row in table.to_pylist():
        kinds[len(row["target_mask_ids"])] += 1
        assert row["key"] == keys[row["image_id"]]
        if len(row["target_mask_ids"]) == 1:
            mask = masks[row["target_mask_ids"][0]]
            assert {name: row[name] for name in ("mask_id", "segmentation", "area_px")} == {
                name: mask[name] for name in ("mask_id", "segmentation", "area_px")
            }
        else:
            assert row["mask_id"] is row["segmentation"] is None
    assert set(kinds) == {1, 2}


@pytest.mark.parametrize(("table", "column", "key"), [(MASKS, "area_px", "mask_id"), (IMAGES, "height", "image_id")])
def test_an_expression_whose_mask_or_image_is_lost_is_an_error_of_every_reader(tmp_path, table, column, key):
    scored_run(RunLocation.open(str(tmp_path)))
    run = pseudoris.open_run(str(tmp_path))
    row = run.sample(1, columns=[key]).to_pylist()[0]
    for part in tmp_path.glob(f"{table}/*.parquet"):
        whole = pq.read_table(part)
        pq.write_table(whole.filter(pc.field(key) != row[key]), part)
    lost = f"name the {key.removesuffix('_id')} {row[key]}, which is not in its tables. Run `pseudoris verify`"
    with pytest.raises(ConfigError, match=lost):
        run.sample(1_000, columns=[column])
    with pytest.raises(ConfigError, match=lost):
        list(pseudoris.RisDataset(str(tmp_path), pseudoris.SampleSpec(on_bad_image="skip")))
    # With the image's row its masks have no image either.
    with pytest.raises(ConfigError, match=lost if table == MASKS else "the table images of shard"):
        list(run)


@pytest.mark.parametrize("number", [-1, "3", float("nan")])
def test_a_number_of_rows_that_is_none_is_refused(run, number):
    with pytest.raises(ConfigError, match=f"num_rows {number!r} is not possible: give a whole number from 0"):
        Run(run).sample(number)


@given(counts=st.lists(st.integers(0, 30), max_size=12), size=st.integers(1, 80), seed=st.integers(0, 5))
def test_every_stretch_gives_one_row(counts, size, seed):
    drawn = draw_rows(counts, size, seed)
    starts = [sum(counts[:shard]) for shard in range(len(counts))]
    assert all(0 <= row < counts[shard] for shard, rows in drawn.items() for row in rows)
    places = [starts[shard] + row for shard, rows in drawn.items() for row in rows]
    total = sum(counts)
    num_rows = min(size, total)
    assert len(places) == num_rows
    for number, place in enumerate(places):
        assert number * total // num_rows <= place < (number + 1) * total // num_rows


def test_a_filtered_dataset_is_not_sent_to_another_process_without_its_filter(run):
    filtered = Run(run).masks().filter(ds.field("area_px") > 0)
    with pytest.raises(ValueError, match="filtered"):
        pickle.dumps(filtered)


@pytest.mark.slow
def test_a_process_that_reads_a_part_of_a_dataset_ends(tmp_path):
    # Python files that Arrow's threads still read would hang it, or abort.
    scored_run(RunLocation.open(str(tmp_path)), num_shards=20)
    read = f"import pseudoris; tables = pseudoris.open_run({str(tmp_path)!r}).masks(); b = tables.to_batches(); next(b)"
    assert subprocess.run([sys.executable, "-c", read], check=False, timeout=100).returncode == 0


RECORDED = Path("tests/versions/0.5.0")


@pytest.fixture(scope="module")
def recorded():
    return pseudoris.open_run(str(RECORDED / "finished"), source=str(RECORDED / "images"))


def test_an_index_is_a_place_among_the_images_that_are_not_quarantined(tmp_path):
    header = begin(RunLocation.open(str(tmp_path)), num_shards=3)
    for shard in (0, 2):
        commit_scored(RunLocation.open(str(tmp_path)), header, shard)
    run = pseudoris.open_run(str(tmp_path))
    keys = run.images().to_table(filter=pc.field("status") != "quarantined")["key"].to_pylist()
    assert [image.key for image in run] == keys
    assert [run[at - len(run)].key for at in range(len(run))] == keys
    assert len(run) == run.counts.annotated + run.counts.empty
    for at in (len(run), -len(run) - 1):
        with pytest.raises(IndexError, match=f"no image {at}: .* has {len(run)} that are not quarantined"):
            run[at]


def test_one_image_reads_no_other_shard(tmp_path):
    scored_run(RunLocation.open(str(tmp_path)), num_shards=3)
    for part in tmp_path.glob("*/shard-00000001.*.parquet"):
        part.unlink()
    run = pseudoris.open_run(str(tmp_path))
    assert run[0].masks.any()
    assert run[-1].expressions == ()
    with pytest.raises(ConfigError, match="is missing, although a receipt names it"):
        run[len(run) // 2]


def test_a_part_with_fewer_images_than_its_receipt_ends_no_loop_silently(tmp_path):
    scored_run(RunLocation.open(str(tmp_path)), num_shards=2)
    run = pseudoris.open_run(str(tmp_path))
    image = run[0]
    (part,) = tmp_path.glob("images/shard-00000000.*.parquet")
    table = pq.read_table(part)
    pq.write_table(table.slice(1), part)
    told = "the table images of shard 0 is damaged: run `pseudoris verify`"
    with pytest.raises(ConfigError, match=told):
        list(pseudoris.open_run(str(tmp_path)))
    with pytest.raises(ConfigError, match=told):
        _ = image.image


def test_masks_and_expressions_are_those_of_the_tables(tmp_path):
    scored_run(RunLocation.open(str(tmp_path)), has_humans=True)
    run = pseudoris.open_run(str(tmp_path))
    for image in run:
        ours = pc.field("image_id") == image.image_id
        masks = run.masks().to_table(filter=ours).to_pylist()
        assert [mask.tolist() for mask in image.masks] == [
            coco.decode({"size": row["segmentation"]["size"], "counts": row["segmentation"]["counts"]}).tolist()
            for row in masks
        ]
        assert image.masks.shape == (len(masks), image.height, image.width)
        assert image.masks.dtype == bool
        ids = [row["mask_id"] for row in masks]
        said = [
            (row["text"], row["kept"], tuple(map(ids.index, row["target_mask_ids"])), row["distinctiveness"])
            for row in run.expressions().to_table(filter=ours).to_pylist()
        ]
        assert sorted(map(str, said)) == sorted(str(each[:4]) for each in image.expressions)


def test_an_image_is_the_annotated_file_and_no_other(tmp_path, recorded):
    assert recorded[0].image.shape == (192, 192, 3)
    assert len(np.unique(np.asarray(recorded[0].picture()))) > 50
    other = bytearray((RECORDED / "images/scene-000.jpg").read_bytes())
    other[-3] ^= 1
    (tmp_path / "scene-000.jpg").write_bytes(other)
    moved = pseudoris.open_run(recorded.out, source=str(tmp_path))
    remedy = "If the images were moved, say where they are now: source=… in Python.*"
    for at, reason in ((0, "the bytes have changed"), (1, "not there")):
        with pytest.raises(ConfigError, match=rf"^image scene-00{at}.jpg cannot be read: .*{reason}.*{remedy}$"):
            _ = moved[at].image
        assert reason in moved[at]._repr_html_()
        assert "data:image/jpeg" in moved[at]._repr_html_()


def test_an_embedded_image_needs_no_source(tmp_path):
    scored_run(RunLocation.open(str(tmp_path)))
    # They are no image, and SOURCE does not exist.
    with pytest.raises(ConfigError, match="no decoder recognises the bytes"):
        _ = pseudoris.open_run(str(tmp_path))[0].image


def test_what_a_notebook_shows_is_escaped():
    hostile = "<img src=x onerror=alert(1)>\x1b[2J"
    mask = make_mask("a", 0, (0, 0, 4, 4))
    said = ExpressionRecord((mask.mask_id,), hostile, (), kept=True)
    fields = {name: getattr(mask, name) for name in mask.__dataclass_fields__}
    height, width = mask.rle_size
    record = AnnotatedImage(
        0, "a", hostile, height, width, "0" * 64, None, (AnnotatedMask(**fields, expressions=(said,)),)
    )
    page = RunImage(record, lambda: (_ for _ in ()).throw(OSError(hostile)), ImagesConfig())._repr_html_()
    assert page.count("&lt;img src=x onerror") == 5, "the name twice and in the reason, the reason, the text"
    assert "<img src=x" not in page
    assert "\x1b" not in page
    assert "<script" not in page
    line_end = RunImage(replace(record, key="x%0Ay.png", masks=()), lambda: b"", ImagesConfig())
    assert line_end._repr_html_().count("x\\ny.png") == 2


def test_a_run_shows_its_counts_and_first_images(recorded):
    page = recorded._repr_html_()
    assert page.count("<img ") == 3
    assert "4 of 4 shards" in page
    assert f"{recorded.counts.kept:,} of {recorded.counts.expressions:,} expressions kept" in page


def test_a_data_frame_has_all_rows_and_names_pandas_where_it_is_missing(recorded, monkeypatch):
    frame = recorded.to_pandas(columns=["key", "text", "kept"], kept_only=False)
    assert list(frame.columns) == ["key", "text", "kept"]
    assert frame["text"].tolist() == recorded.expressions().to_table()["text"].to_pylist()
    assert len(recorded.to_pandas()) == recorded.counts.kept
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match="run `pip install pandas`"):
        recorded.to_pandas()
