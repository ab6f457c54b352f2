"""Every trap of the foreign formats that any reader of images, masks and texts may fall into, asked of each format."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco

from pseudoris.files.location import RunLocation
from pseudoris.interchange.exports import EXPORTS, selected_rows
from pseudoris.primitives.errors import ConfigError
from tests.interchange.exports.builders import UPRIGHT, TrueMask, changed_tables, export, stored
from tests.interchange.exports.loading import LOADERS, WITH_BARE_MASKS, WITH_CANDIDATES, LoadedMask
from tests.interchange.exports.readers_coco import read_instances, read_sa1b
from tests.interchange.exports.readers_huggingface import open_folder
from tests.interchange.exports.readers_refer import Refer
from tests.interchange.exports.readers_webdataset import read_samples

# The texts that a format leaves out whatever its limit; LISA's loader refuses what it joins texts with.
REFUSED = {"refer": "||"}
HAS_PLAIN_PATHS = True


@pytest.fixture(scope="module", params=sorted(LOADERS))
def loaded(request, exported) -> tuple[str, list[LoadedMask]]:
    return request.param, [*LOADERS[request.param](exported(request.param, max_tokens=0)[0])]


def due(built_run, name: str):
    if name in WITH_CANDIDATES:
        return {
            image.image_id: [TrueMask(mask.pixels, mask.candidates) for mask in image.masks]
            for image in built_run.truth
        }
    if name in WITH_BARE_MASKS:
        return {image.image_id: image.masks for image in built_run.truth}
    refused = REFUSED.get(name)
    return built_run.with_texts(lambda text: refused is None or refused not in text)


def test_the_round_trip_keeps_masks_to_the_pixel_texts_and_counts(loaded, built_run):
    name, masks = loaded
    expected = due(built_run, name)
    assert Counter(mask.image_id for mask in masks) == Counter({image: len(of) for image, of in expected.items()})
    by_image = {image: [mask for mask in masks if mask.image_id == image] for image in expected}
    for image, found in by_image.items():
        for mask, true in zip(found, expected[image], strict=True):
            assert np.array_equal(mask.mask, true.pixels)
            assert mask.texts == true.texts


@pytest.mark.parametrize("name", ["coco", "hf", "refer", "sa1b", "webdataset"])
def test_boxes_are_x_y_width_height_and_areas_pixels_of_their_masks(name, exported):
    root, _ = exported(name, **({"masks": "rle"} if name == "refer" else {}))
    found = {
        "coco": lambda: [each for _, each, _, _ in read_instances(root)],
        "hf": lambda: [mask for row in open_folder(root) for mask in row["masks"]],
        "refer": lambda: [*Refer(root).anns.values()],
        "sa1b": lambda: [each for _, _, of_image in read_sa1b(root) for each, _ in of_image],
        "webdataset": lambda: [mask for sample in read_samples(root) for mask in json.loads(sample["json"])["masks"]],
    }[name]()
    assert found
    for each in found:
        if name == "hf":
            code = coco.encode(np.asfortranarray(each["mask"]))
        else:
            # REFER's loader wants a list.
            code = each["segmentation"][0] if name == "refer" else each["segmentation"]
            assert isinstance(code["counts"], str)
        assert [*each["bbox"], each["area"]] == [*coco.toBbox(code).tolist(), coco.area(code)]


@pytest.mark.parametrize("name", ["cris", "lmdb", "refer"])
def test_trap_texts_reach_trainers_stripped_in_small_letters_and_never_empty(name, built_run, place, monkeypatch):
    # As later tables or another tool's may hold them: ours are clean from the start.
    def shouted(image):
        masks = (replace(mask, expressions=tuple(_shouted(mask.expressions))) for mask in image.masks)
        return replace(image, masks=tuple(masks))

    changed_tables(monkeypatch, shouted)
    report = export(name, built_run, place, max_tokens=0)
    masks = [*LOADERS[name](Path(place.root))]
    texts = Counter(text for mask in masks for text in mask.texts)
    expected = due(built_run, name)
    assert texts == Counter(text for of in expected.values() for mask in of for text in mask.texts)
    assert report.dropped[selected_rows.WITHOUT_TEXT] == len(masks) + (name == "refer")


def _shouted(expressions):
    for each in expressions:
        yield replace(each, text=f"  {each.text.upper()}\t")
    if expressions:
        yield replace(expressions[0], text=" \n ")


def test_ids_of_masks_are_unique(loaded):
    numbers = [mask.mask_number for mask in loaded[1]]
    assert len(set(numbers)) == len(numbers)


def test_an_image_id_is_not_shared_by_different_files(loaded):
    pairs = {(mask.image_number, mask.file_name) for mask in loaded[1] if mask.image_number is not None}
    assert len(pairs) == len({number for number, _ in pairs}) == len({name for _, name in pairs})


def test_images_are_upright_also_for_a_reader_that_ignores_exif(loaded):
    for mask in loaded[1]:
        assert mask.pixels.shape[:2] == mask.mask.shape == UPRIGHT.shape[:2]
        # What is turned the wrong way has blue, or red, where green belongs; JPEG and CMYK shift colours a little.
        assert mask.pixels[1, 1].argmax() == 1
        assert (mask.pixels[-2, 1].argmax(), mask.pixels[-2, -2].argmax()) == (0, 2)


def test_names_of_files_are_unique_and_lead_nowhere(loaded, built_run):
    for mask in loaded[1]:
        assert mask.file_name.isascii()
        assert not set(mask.file_name) & set("/\\ %#!")
    # One name in two folders: two files.
    assert len({mask.file_name for mask in loaded[1]}) == len(due(built_run, loaded[0]))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(EXPORTS.keys() - {"parquet"}))
def test_an_export_to_a_bucket_holds_the_files_of_one_to_a_disk(name, built_run, tmp_path, s3_server, s3_bucket):
    disk, bucket = tmp_path / "disk", RunLocation.open(f"s3://{s3_bucket}/an export", s3_server.endpoint_url)
    local, remote = (export(name, built_run, place) for place in (disk, bucket))
    assert (local.rows, local.size_bytes) == (remote.rows, remote.size_bytes)
    for path in stored(disk):
        assert bucket.read_bytes(path) == (disk / path).read_bytes(), path


@pytest.mark.parametrize("name", sorted(LOADERS.keys() - WITH_BARE_MASKS))
def test_a_run_without_a_mask_left_is_refused_with_the_reasons(name, built_run, place):
    with pytest.raises(ConfigError, match=r"left to export: .* more than 2 CLIP tokens"):
        export(name, built_run, place, max_tokens=2)
    assert not stored(place.root)
