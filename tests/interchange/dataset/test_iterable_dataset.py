"""The stream: the samples that the tables hold, each once, in an order that a seed decides; only what is asked for."""

from __future__ import annotations

import io
import logging
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco
from torch.utils.data import DataLoader

from pseudoris.images.pixels import decode_upright
from pseudoris.interchange.dataset import (
    ExpressionFilter,
    RisDataset,
    RisIterableDataset,
    SampleSpec,
    StreamOrder,
    collate_lists,
)
from pseudoris.interchange.dataset.image_reader import decode_plain_jpeg
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config import ImagesConfig
from pseudoris.schemas.shard import CaptionSample
from pseudoris.schemas.tables import EXPRESSIONS
from pseudoris.store.tables import image_bytes
from pseudoris.store.tables.annotations import iter_annotations
from pseudoris.store.tables.open_run import OpenRun
from tests.builders import images as build
from tests.interchange.dataset.builders import build_run

# What Arrow reads of a file to find its footer.
TAIL_BYTES = 2**16
# What it reads along between two columns that are wanted, so that one request does for both.
JOINED_BYTES = 2**13
EVERYTHING = SampleSpec(expressions_per_mask=None)


@pytest.fixture(scope="module")
def large_run(tmp_path_factory):
    """One shard whose expressions fill more than a footer's read: 4,000 rows, no two alike."""

    def rows(number):
        generator = np.random.default_rng(number)
        for at in range(1_000):
            samples = tuple(
                CaptionSample("masked", "top_k", 5, None, float(generator.normal()), "all", 1) for _ in range(4)
            )
            yield at % 2, f"{generator.bytes(12).hex()} {at}", {"samples": samples, "distinctiveness": float(at)}

    return build_run(tmp_path_factory.mktemp("large"), num_shards=1, rows=lambda number: list(rows(number)))


def ids(samples):
    return [sample["mask_id"] for sample in samples]


def plain_samples(location):
    """The kept samples by an independent reader: plain PIL, pycocotools, and the annotations of the store."""
    found = {}
    for image in iter_annotations(OpenRun.at(location).shards(), kept_only=True, with_bytes=True):
        for mask in image.masks:
            pixels = np.asarray(Image.open(io.BytesIO(image.data)).convert("RGB")).transpose(2, 0, 1)
            decoded = coco.decode({"size": list(mask.rle_size), "counts": mask.rle_counts.encode()})
            texts = [each.text for each in mask.expressions]
            scores = [each.distinctiveness for each in mask.expressions]
            found[mask.mask_id] = (image, pixels, decoded == 1, mask.box_xyxy_px, texts, scores)
    return found


def test_samples_hold_what_an_independent_reader_finds(run):
    due = plain_samples(run.location)
    samples = list(RisIterableDataset(run.location, EVERYTHING))
    assert sorted(ids(samples)) == sorted(due)
    for sample in samples:
        image, pixels, mask, box, texts, scores = due[sample["mask_id"]]
        assert (sample["image_id"], sample["key"]) == (image.image_id, image.key)
        assert torch.equal(sample["image"], torch.from_numpy(pixels.copy()))
        assert (sample["mask"].dtype, sample["mask"].is_contiguous()) == (torch.bool, True)
        assert np.array_equal(sample["mask"].numpy(), mask)
        assert sample["box_xyxy_px"].tolist() == list(box)
        assert sample["box_xyxy_px"].dtype is torch.int64
        assert (sample["expressions"], sample["sources"]) == (texts, ["model"] * len(texts))
        assert torch.equal(sample["scores"]["distinctiveness"], torch.tensor(scores, dtype=torch.float32))


@pytest.mark.parametrize("num_drawn", [1, 3, 6])
def test_draws_change_with_the_epoch_and_with_nothing_else(run, num_drawn):
    spec = SampleSpec(parts=("text",), expressions_per_mask=num_drawn)
    dataset = RisIterableDataset(run.location, spec)
    first = {sample["mask_id"]: sample["expressions"] for sample in dataset}
    assert {len(texts) for texts in first.values()} == {num_drawn}
    assert all(len(set(texts)) == min(num_drawn, 4) for texts in first.values())
    order = StreamOrder(is_shuffled=False)
    assert {s["mask_id"]: s["expressions"] for s in RisIterableDataset(run.location, spec, order=order)} == first
    dataset.set_epoch(1)
    assert {sample["mask_id"]: sample["expressions"] for sample in dataset} != first


def test_the_shuffle_is_the_seeds_and_the_epochs(run):
    dataset = RisIterableDataset(run.location, SampleSpec(parts=("text",)))
    first = ids(dataset)
    assert ids(dataset) == first == ids(RisIterableDataset(run.location, SampleSpec(parts=("text",))))
    dataset.set_epoch(1)
    assert ids(dataset) != first
    assert sorted(ids(dataset)) == sorted(first)
    assert ids(RisIterableDataset(run.location, SampleSpec(parts=("text",), seed=1))) != first


def test_without_a_shuffle_samples_come_in_plan_order(run):
    dataset = RisIterableDataset(run.location, order=StreamOrder(is_shuffled=False))
    assert ids(dataset) == list(plain_samples(run.location)) == RisDataset(run.location).mask_ids()


def read_rank(run, num_workers, rank, world_size, uneven="keep"):
    order = StreamOrder(rank=rank, world_size=world_size, uneven=uneven, buffer_images=2)
    dataset = RisIterableDataset(run.location, SampleSpec(parts=("text",)), order=order)
    return [mask for batch in DataLoader(dataset, 3, num_workers=num_workers, collate_fn=ids) for mask in batch]


@pytest.mark.parametrize(("world_size", "num_workers"), [(2, 0), (2, 2), (4, 0)])
def test_ranks_and_workers_read_every_sample_once(run, world_size, num_workers):
    found = [mask for rank in range(world_size) for mask in read_rank(run, num_workers, rank, world_size)]
    assert sorted(found) == sorted(plain_samples(run.location))


@pytest.mark.parametrize(("uneven", "sizes"), [("drop", [4] * 5), ("pad", [5] * 5)])
def test_even_ranks_have_as_many_samples_with_few_dropped_or_repeated(run, uneven, sizes):
    ranks = [read_rank(run, 0, rank, 5, uneven) for rank in range(5)]
    assert [len(found) for found in ranks] == sizes
    found, due = [mask for masks in ranks for mask in masks], set(plain_samples(run.location))
    assert set(found) <= due
    assert len(set(found)) == min(len(found), len(due))
    order = StreamOrder(rank=3, world_size=5, uneven=uneven)
    assert len(RisIterableDataset(run.location, order=order)) == sizes[3]


def test_uneven_ranks_are_warned_of_once_and_have_no_length(run, caplog):
    with caplog.at_level(logging.WARNING):
        dataset = RisIterableDataset(run.location, order=StreamOrder(rank=0, world_size=2))
        RisIterableDataset(run.location, order=StreamOrder(rank=1, world_size=2))
    assert caplog.text.count("Ranks have different numbers of samples") == 1
    with pytest.raises(TypeError, match="the number of samples per rank is not known"):
        len(dataset)
    assert dataset.count() == 24


def test_an_epoch_over_text_reads_neither_masks_nor_images_nor_other_columns(large_run, reads):
    list(RisIterableDataset(large_run.location, SampleSpec(parts=("text",))))
    assert reads.tables() == {EXPRESSIONS}
    ((path, ranges),) = reads.ranges.items()
    size = large_run.location.size(path)
    # For the footer Arrow asks for the file's end, whatever lies there.
    before = size - TAIL_BYTES
    ranges = [(start, start + length) for start, length in ranges if start < before]
    spans = column_spans(large_run, path)
    columns = [(name, first, min(end, before)) for name, (first, end) in spans if first < before]
    read = {name for name, first, end in columns if any(start < end and first < stop for start, stop in ranges)}
    small = {name for name, first, end in columns if end - first < JOINED_BYTES}
    wanted = {"image_id", "target_mask_ids.list.element", "text", "source", "kept"}
    assert read - small == {"text"}
    assert read >= wanted & {name for name, _, _ in columns}
    assert {"log_prob", "samples.list.element.log_prob"} <= {name for name, _, _ in columns} - small
    assert sum(stop - start for start, stop in ranges) < size / 2


def column_spans(run, path):
    process_group = pq.ParquetFile(io.BytesIO(run.location.read_bytes(path))).metadata.row_group(0)
    for column in map(process_group.column, range(process_group.num_columns)):
        first = column.dictionary_page_offset or column.data_page_offset
        yield column.path_in_schema, (first, first + column.total_compressed_size)


def test_a_part_that_statistics_rule_out_is_not_read_beyond_its_footer(large_run, reads):
    spec = SampleSpec(where=ExpressionFilter(tau=1e9, lone="drop"))
    assert list(RisIterableDataset(large_run.location, spec)) == []
    assert reads.tables() == {EXPRESSIONS}
    ((path, ranges),) = reads.ranges.items()
    assert all(start >= large_run.location.size(path) - TAIL_BYTES for start, _ in ranges)


def test_each_part_is_opened_once_an_epoch(run, reads):
    list(RisIterableDataset(run.location, order=StreamOrder(rank=0, world_size=1)))
    assert reads.tables() == {"images", "masks", EXPRESSIONS}
    assert (len(reads.ranges), set(reads.opened.values())) == (9, {1})


def spoil(run, how):
    path = run.source / "s1-2.png"
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes((run.source / "s0-0.png").read_bytes())


@pytest.mark.parametrize("how", ["missing", "changed"])
def test_an_image_that_is_not_the_annotated_one_is_named(tmp_path, how):
    run = build_run(tmp_path, is_embedding=False)
    spoil(run, how)
    with pytest.raises(ConfigError, match=rf"image s1-2.png of .* cannot be used \({how}: .*on_bad_image='skip'"):
        list(RisIterableDataset(run.location))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_bad_images_are_skipped_and_counted_where_that_is_asked_for(tmp_path, num_workers):
    run = build_run(tmp_path, is_embedding=False)
    spoil(run, "missing")
    dataset = RisIterableDataset(run.location, SampleSpec(on_bad_image="skip"))
    loader = DataLoader(dataset, 4, num_workers=num_workers, collate_fn=collate_lists)
    found = [key for batch in loader for key in batch["key"]]
    assert len(found) == 22
    assert "s1-2.png" not in found
    assert dataset.num_skipped == 2


def test_even_ranks_stay_even_over_bad_images(tmp_path):
    run = build_run(tmp_path, is_embedding=False)
    spoil(run, "missing")
    spec = SampleSpec(on_bad_image="skip")
    for rank in range(2):
        order = StreamOrder(rank=rank, world_size=2, uneven="pad")
        assert len(list(RisIterableDataset(run.location, spec, order=order))) == 12


def test_images_that_were_moved_are_read_where_they_lie_now(tmp_path):
    run = build_run(tmp_path, is_embedding=False)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in run.source.iterdir():
        # Another time of modification.
        (moved / path.name).write_bytes(path.read_bytes())
        path.unlink()
    run.source.rmdir()
    assert len(list(RisIterableDataset(run.location, SampleSpec(source=str(moved))))) == 24
    (moved / "s0-1.png").write_bytes((moved / "s0-2.png").read_bytes())
    with pytest.raises(ConfigError, match=r"s0-1.png of .*elsewhere cannot be used"):
        list(RisIterableDataset(run.location, SampleSpec(source=str(moved))))


@pytest.mark.long
def test_a_run_on_s3_gives_the_samples_of_the_same_run_on_a_disk(run, s3_server, s3_bucket):
    uri = s3_server.put_folder(Path(run.location.root), s3_bucket, "run")
    dataset = RisIterableDataset(uri, endpoint_url=s3_server.endpoint_url)
    found, due = list(dataset), list(RisIterableDataset(run.location))
    assert ids(found) == ids(due)
    assert all(torch.equal(one["image"], other["image"]) for one, other in zip(found, due, strict=True))
    # Workers are forked off a process that has asked the bucket already.
    batches = DataLoader(dataset, 4, num_workers=2, collate_fn=ids)
    assert sorted(mask for batch in batches for mask in batch) == sorted(ids(due))


@pytest.mark.parametrize(
    ("spec", "order", "message"),
    [
        ({}, {"buffer_images": 0}, "Give 1 or more"),
        ({}, {"uneven": "even"}, "give 'keep', 'drop' or 'pad'"),
        *(
            (
                {},
                {"rank": each, "world_size": 4},
                rf"rank is {each}, world_size 4\. Give a rank from 0 to world_size - 1",
            )
            for each in (None, 4, -1)
        ),
        ({"parts": ("pixels",)}, {}, "give some of image, mask, box, text, scores"),
        ({"parts": ()}, {}, "give some of image"),
        ({"expressions_per_mask": 0}, {}, "give 1 or more, or None for all"),
        ({"on_bad_image": "ignore"}, {}, "give 'raise' or 'skip'"),
        ({"none": -0.1}, {}, "Give a share of the samples, at least 0 and below 1"),
        ({"none": 1.0}, {}, "Give a share of the samples, at least 0 and below 1"),
    ],
)
def test_a_spec_or_an_order_that_makes_no_sense_is_refused(run, spec, order, message):
    with pytest.raises(ConfigError, match=message):
        RisIterableDataset(run.location, SampleSpec(**spec), order=StreamOrder(**order))


def test_a_transform_that_writes_into_an_image_spoils_it_for_no_other_mask(run):
    def blank(sample):
        before = sample["image"].clone()
        sample["image"].zero_()
        return before

    images = list(RisIterableDataset(run.location, transform=blank))
    images += RisDataset(run.location, transform=blank).__getitems__([0, 1, 0])
    assert all(image.any() for image in images)


def test_what_a_transform_returns_is_yielded_whatever_it_is(run):
    dataset = RisIterableDataset(run.location, SampleSpec(parts=("text",)), transform=lambda sample: None)
    assert list(dataset) == [None] * 24
    assert dataset.num_skipped == 0


# Encoded images of a shard are read by two threads, and decoded to the pixels of annotation.


LIMITS = ImagesConfig()


def give_way(frame, event, argument):
    """Let other threads come before every line of the reader: the interpreter promises none that they may not."""
    if frame.f_code.co_filename != image_bytes.__file__:
        return None
    time.sleep(1e-4)
    return give_way


@pytest.mark.parametrize("is_random_access", [False, True])
def test_two_threads_that_read_two_shards_do_not_take_each_others_plans(tmp_path, is_random_access):
    run = build_run(tmp_path, is_committed=False, num_shards=40, per_shard=1)
    encoded = image_bytes.PlannedImages(run.location, run.header, is_random_access=is_random_access)

    def look(shards):
        sys.settrace(give_way)
        try:
            return [[key for key, _ in encoded.read(shard, [f"s{shard}-0.png"])] for shard in shards]
        finally:
            sys.settrace(None)

    shards = range(0, 40, 2), range(1, 40, 2)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(look, shards)) == [[[f"s{shard}-0.png"] for shard in each] for each in shards]


def upright(data: bytes) -> torch.Tensor:
    return torch.from_numpy(decode_upright(data, LIMITS).transpose(2, 0, 1).copy())


@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    seed=st.integers(0, 9),
    quality=st.sampled_from([10, 75, 90, 100]),
    subsampling=st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]),
    options=st.sampled_from([{}, {"progressive": True}, {"restart_marker_blocks": 2}, {"optimize": True}]),
    is_grey=st.booleans(),
)
def test_pixels_equal_those_of_annotation(height, width, seed, quality, subsampling, options, is_grey):
    image = Image.fromarray(build.random_pixels(height, width, seed=seed)).convert("L" if is_grey else "RGB")
    chroma = {} if is_grey else {"subsampling": subsampling}
    data = build.encode(image, "JPEG", quality=quality, **chroma, **options)
    pixels = decode_plain_jpeg(data, LIMITS)
    assert pixels is not None
    assert pixels.is_contiguous()
    assert torch.equal(pixels, upright(data))


JPEG = build.jpeg(30, 40)


@pytest.mark.parametrize(
    ("data", "limits"),
    [
        pytest.param(build.png(), {}, id="png"),
        pytest.param(build.oriented(build.smooth_pixels(), 6, "JPEG"), {}, id="turned"),
        pytest.param(build.encode(Image.new("CMYK", (9, 7), (1, 2, 3, 4)), "JPEG"), {}, id="cmyk"),
        pytest.param(build.jpeg()[:20], {}, id="cut in its header"),
        # Half an image is none.
        pytest.param(build.jpeg(64, 64)[: len(build.jpeg(64, 64)) // 2], {}, id="cut in its middle"),
        pytest.param(b"", {}, id="empty"),
        pytest.param(b"no image", {}, id="no image"),
        pytest.param(JPEG, {"max_pixels": 30 * 40 - 1}, id="too many pixels"),
        pytest.param(JPEG, {"max_bytes": len(JPEG) - 1}, id="too many bytes"),
    ],
)
def test_anything_else_is_left_to_the_other_decoder(data, limits):
    assert decode_plain_jpeg(data, ImagesConfig(**limits)) is None
    assert decode_plain_jpeg(JPEG, ImagesConfig(max_pixels=30 * 40, max_bytes=len(JPEG))) is not None
