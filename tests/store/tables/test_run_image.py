"""Images of a run for Python and notebooks: which image an index gives, masks as numpy, and what a page shows."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pycocotools import mask as coco

import pseudoris
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.shard import ExpressionRecord
from pseudoris.store.location import RunLocation
from pseudoris.store.tables.annotations import AnnotatedImage, AnnotatedMask
from pseudoris.store.tables.run_image import RunImage
from tests.builders.scored_runs import begin, commit_scored, scored_run
from tests.store.builders import make_mask

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
    remedy = re.escape("If the images were moved, say where they are: open_run(out, source=NEW)")
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
    page = RunImage(record, lambda: (_ for _ in ()).throw(OSError(hostile)), ())._repr_html_()
    assert page.count("&lt;img src=x onerror") == 5, "the name twice and in the reason, the reason, the text"
    assert "<img src=x" not in page
    assert "\x1b" not in page
    assert "<script" not in page
    damaged = replace(record, masks=(replace(record.masks[0], rle_counts="0"),))
    said = rf"mask {mask.mask_id} of image .* in shard 0 is damaged: .*Run `pseudoris verify`"
    with pytest.raises(ConfigError, match=said):
        _ = RunImage(damaged, lambda: b"", ()).masks
    assert re.search(said, RunImage(damaged, lambda: b"", ())._repr_html_())


def test_a_line_end_in_a_name_is_spelled():
    record = AnnotatedImage(0, "a", "x%0Ay.png", 4, 4, "0" * 64, None, ())
    page = RunImage(record, lambda: b"", ())._repr_html_()
    assert page.count("x\\ny.png") == 2


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
