"""All formats of a combined run with tiles, copies, groups and splits, by their readers: each text, pixel and split."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pycocotools import mask as coco

from pseudoris.files.location import RunLocation
from pseudoris.interchange.exports import EXPORTS
from pseudoris.schemas.config_layers import load_config
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.held_out_pictures import HoldOut
from pseudoris.store.sessions.combined_run import combine
from pseudoris.store.tables.open_run import OpenRun
from pseudoris.synthworld.renderer import render
from tests.builders.command import invoke
from tests.builders.images import encode
from tests.builders.plain_runs import work_off
from tests.builders.scene_runs import scenes
from tests.builders.sources import write_files
from tests.interchange.exports.builders import BuiltRun, export
from tests.interchange.exports.test_splits import ONE_SPLIT, SPLITS, Found, read, said_bytes

HAS_PLAIN_PATHS = True
pytestmark = pytest.mark.slow
CONVERSATIONS = ("ms-swift", "llamafactory", "qwen")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[BuiltRun, dict]:
    """Return a run of two tiled folders, and the pixels that each picture was drawn with.

    The second folder has byte copies of a cut picture of the first and of one that fits.
    """
    folder, drawn = tmp_path_factory.mktemp("tiled"), [render(scene).image for scene in scenes(5).values()]
    cut, other = np.concatenate(drawn[:2], 1), np.concatenate(drawn[2:4], 1)
    pictures = {
        "a": {"a.v1.png": cut, "fits.png": drawn[4]},
        "b": {"c/copy.png": cut, "other.png": other, "same.png": drawn[4]},
    }
    for name, own in pictures.items():
        write_files(folder / f"in-{name}", {key: encode(pixels) for key, pixels in own.items()})
        invoke("tile", folder / f"in-{name}", folder / f"tiles-{name}", "--size", "192", "--overlap", "48")
        work_off(folder / f"tiles-{name}", folder / name, load_config("tiny-composed"))
    location = RunLocation.open(str(folder / "both"))
    given = [(name, RunLocation.open(str(folder / name))) for name in pictures]
    combine(given, location, hold_out=HoldOut.of({"val": 0.5}, "similar"))
    whole = {f"{name}/{key}": pixels for name, own in pictures.items() for key, pixels in own.items()}
    return BuiltRun(location, require_header(location), ()), whole


@pytest.fixture(scope="module")
def due(built) -> list[tuple[str, str, list[dict], bytes, dict]]:
    """Return image's id, text, rows of the masks, pixels and row of each expression, by the tables alone.

    A mask without a kept text of its own has a row with the text "".
    """
    run, whole = built
    images, masks, said = (
        OpenRun.at(run.location).table(name).to_pylist() for name in ("images", "masks", "expressions")
    )
    by_id = {row["mask_id"]: {**row, "pixels": coco.decode(row["segmentation"]) == 1} for row in masks}
    shown = {}
    for row in images:
        pixels = whole[row["picture"] or f"{row['key'][0]}/{row['key'].rpartition('!')[2]}"]
        x0, y0, x1, y1 = row["tile_xyxy_px"] or (0, 0, *pixels.shape[1::-1])
        shown[row["image_id"]] = pixels[y0:y1, x0:x1].tobytes()
    assert {row["split"] for row in images} == {*SPLITS}
    assert len({*shown.values()}) == len(shown) - 4
    assert any(row["is_cut"] for row in masks)
    assert {len(row["target_mask_ids"]) for row in said} == {0, 1, 2}
    bare = by_id.keys() - {
        row["target_mask_ids"][0] for row in said if row["kept"] and len(row["target_mask_ids"]) == 1
    }
    splits = {row["image_id"]: {"split": row["split"], "kept": True, "text": ""} for row in images}
    said += [{**splits[each[:16]], "image_id": each[:16], "target_mask_ids": [each]} for each in bare]
    return [
        (row["image_id"], row["text"], [by_id[each] for each in row["target_mask_ids"]], shown[row["image_id"]], row)
        for row in said
    ]


def form(name: str, targets: list[dict]) -> bytes:
    """Return the targets of an expression as a format gives them."""
    masks, boxes = [row["pixels"] for row in targets], [row["box_xyxy_px"] for row in targets]
    if name in CONVERSATIONS:
        sizes = [row["segmentation"]["size"] for row in targets]
        norms = [(width, height) * 2 for height, width in sizes]
        return said_bytes(
            str([[round(1000 * e / n) for e, n in zip(*each, strict=True)] for each in zip(boxes, norms, strict=True)])
        )
    if name in ("sa2va", "reasonseg"):
        return said_bytes(np.logical_or.reduce(masks))
    return said_bytes(boxes if name == "odvg" else masks)


def expected(name: str, split: str, due: list) -> Found:
    rule, taken = EXPORTS[name].takes, {}
    for number, (image, text, targets, shown, row) in enumerate(due):
        is_taken = name == "parquet" or len(targets) == 1 or (rule.with_groups if targets else rule.with_none)
        is_taken &= bool(text) or rule.keeps_bare_masks
        if row["split"] == split and is_taken and (row["kept"] or not rule.is_kept_only):
            # SAM 3 is asked for a text once an image, and answers with all that have it.
            key = (image, text) if name == "sam3" else number
            _, _, before, _ = taken.get(key, (image, text, [], shown))
            taken[key] = image, text, sorted([*before, *targets], key=lambda mask: mask["mask_id"]), shown
    return {
        (image, text, form(name, targets), b"" if name == "parquet" else shown)
        for image, text, targets, shown in taken.values()
    }


def located(found: Found) -> Found:
    """Return what conversations hold, as (image, text, boxes, pixels)."""
    ours = set()
    for image, question, answer, shown in found:
        text = question.removeprefix("Locate ").removesuffix(", and list the box of everything that it refers to.")
        objects = json.loads(answer)
        assert {each["label"] for each in objects} <= {text}
        ours.add((image, text, said_bytes(str([each["bbox_2d"] for each in objects])), shown))
    return ours


@pytest.mark.parametrize("name", sorted(EXPORTS))
def test_each_split_has_the_texts_masks_and_pixels_of_the_tables(name, built, due, tmp_path):
    for split in SPLITS:
        root, own = (tmp_path / split, split) if name in ONE_SPLIT else (tmp_path / "all", None)
        if not root.exists():
            export(name, built[0], root, max_tokens=0, split=own)
        found = read(name, root, split)
        assert (located(found) if name in CONVERSATIONS else found) == expected(name, split, due)
        assert found
