"""What trainers of grounding read today, through readers of theirs: one target, several, and none."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from pseudoris.files.key_order import path_key
from pseudoris.interchange.exports import EXPORTS
from pseudoris.interchange.exports.conversations import factory_size, qwen_size
from pseudoris.interchange.exports.record_lists import brush_strokes, pixels_of_strokes
from tests.interchange.exports.builders import (
    HEIGHT,
    UPRIGHT,
    WIDTH,
    BuiltRun,
    TrueExpression,
    build_run,
    export,
    groups_of,
    jpeg,
    true_expressions,
)
from tests.interchange.exports.readers_conversations import read_factory, read_odvg, read_qwen, read_swift
from tests.interchange.exports.readers_label_studio import decode_rle, read_label_studio
from tests.interchange.exports.readers_masks import CocoFromJson, read_grefcoco, read_reasonseg, read_sa2va, read_sam3

# What a text holds that a format refuses.
CONVERSED = ("<image>", "<bbox>", "<|")
REFUSED = {
    **dict.fromkeys(("ms-swift", "llamafactory", "qwen"), CONVERSED),
    **dict.fromkeys(("sa2va", "reasonseg"), ("<image>", "[SEG]")),
    "grefcoco": ("||", "<image>"),
}
Normed = Callable[[list[int]], list[int]]


def thousandths(box: list[int]) -> list[int]:
    return [round(edge / side * 1000) for edge, side in zip(box, (WIDTH, HEIGHT) * 2, strict=True)]


def shown(path: Path) -> str:
    """Return the id of the run's image, once the file is the upright picture."""
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape == UPRIGHT.shape
    assert pixels[1, 1].argmax() == 1
    return path.stem.rpartition("_")[2]


def taken(run: BuiltRun, name: str) -> list[TrueExpression]:
    """Return the run's expressions that a format has, in its letters."""
    rule = EXPORTS[name].takes
    return [
        replace(each, text=each.text.lower() if rule.is_lower_case else each.text)
        for each in true_expressions(run)
        if (len(each.masks) < 2 or rule.with_groups)
        and (len(each.masks) > 0 or rule.with_none)
        and not any(part in each.text for part in REFUSED.get(name, ()))
    ]


@pytest.fixture
def exported(exported, run_of_several):
    return partial(exported, run=run_of_several)


def due_boxes(run, name: str, normed: Normed) -> Counter:
    return Counter((each.image_id, each.text, str([normed(box) for box in each.boxes])) for each in taken(run, name))


def answered(turns) -> Counter:
    """Return what conversations hold: (image, text, boxes), once the answer labels its boxes with the question."""
    found: Counter = Counter()
    for path, question, answer in turns:
        objects = json.loads(answer)
        text = question.removeprefix("Locate ").removesuffix(", and list the box of everything that it refers to.")
        assert {each["label"] for each in objects} <= {text}
        found[shown(path), text, str([each["bbox_2d"] for each in objects])] += 1
    return found


@pytest.mark.parametrize(
    ("name", "read"), [("ms-swift", read_swift), ("llamafactory", read_factory), ("qwen", read_qwen)]
)
def test_a_conversation_answers_with_each_target_of_its_question_or_with_none(name, read, exported, run_of_several):
    root, report = exported(name)
    found = answered(read(root))
    assert found == due_boxes(run_of_several, name, thousandths)
    assert {len(json.loads(boxes)) for _, _, boxes in found} == {0, 1, 2, 3}
    assert report.rows["records"] == found.total()


FRAMES: list[tuple[dict, Normed]] = [
    ({"coordinates": "real"}, lambda box: box),
    # 12 x 20 grows to 56 x 84 there: twice 28, thrice 28.
    (
        {"coordinates": "resized", "resize_factor": 28, "min_pixels": 3136, "max_pixels": 10**6},
        lambda box: [round(edge * scale) for edge, scale in zip(box, (84 / WIDTH, 56 / HEIGHT) * 2, strict=True)],
    ),
]


@pytest.mark.parametrize(("options", "normed"), FRAMES, ids=["real", "resized"])
@pytest.mark.parametrize(("name", "read"), [("llamafactory", read_factory), ("qwen", read_qwen)])
def test_boxes_are_in_the_frame_that_was_asked_for(name, read, options, normed, exported, run_of_several):
    assert answered(read(exported(name, **options)[0])) == due_boxes(run_of_several, name, normed)


# (width, height), the limits in pixels, and what the trainer's own resizing made of it: run, not computed.
SIZES = [
    (qwen_size, (640, 428), (3_136, 12_845_056), (644, 420)),
    (qwen_size, (1024, 768), (3_136, 12_845_056), (1036, 756)),
    (qwen_size, (4000, 3000), (3_136, 12_845_056), (4004, 2996)),
    (qwen_size, (640, 428), (12_544, 451_584), (644, 420)),
    (qwen_size, (1024, 768), (12_544, 451_584), (756, 560)),
    (qwen_size, (4000, 3000), (12_544, 451_584), (756, 560)),
    (qwen_size, (1024, 768), (3_136, 1_003_520), (1036, 756)),
    (qwen_size, (4000, 3000), (3_136, 1_003_520), (1148, 840)),
    (factory_size, (640, 428), (1_024, 589_824), (644, 420)),
    (factory_size, (1024, 768), (1_024, 589_824), (896, 672)),
    (factory_size, (4000, 3000), (1_024, 589_824), (896, 672)),
]


@pytest.mark.parametrize(("resized", "size", "limits", "due"), SIZES)
def test_the_size_is_that_of_the_trainers_own_resizing(resized, size, limits, due):
    assert resized(size[::-1], 28, limits) == due[::-1]


def test_the_registry_of_llamafactory_has_the_name_that_was_given(exported, run_of_several):
    root, report = exported("llamafactory", dataset="mine")
    assert len(list(read_factory(root, "mine"))) == report.rows["records"]
    assert any("dataset: mine" in note for note in report.notes)


@pytest.mark.parametrize("any_targets", [False, True])
def test_a_line_of_odvg_has_the_box_of_its_caption_and_others_where_asked(any_targets, exported, run_of_several):
    root, report = exported("odvg", any_targets=any_targets)
    found = Counter((shown(path), text, str(boxes)) for path, text, boxes in read_odvg(root))
    due = [each for each in true_expressions(run_of_several) if any_targets or len(each.masks) == 1]
    assert found == Counter((each.image_id, each.text.lower(), str(each.boxes)) for each in due)
    assert report.rows["records"] == found.total()
    left_out = {"expressions that refer to several masks": 3, "expressions that refer to no mask": 3}
    assert report.dropped.items() >= ({} if any_targets else left_out).items()
    assert any_targets != (report.dropped.keys() >= left_out.keys())


def test_odvg_counts_the_texts_that_a_full_stop_divides(tmp_path):
    def told(name: str, *texts: str) -> list[str]:
        run = build_run(tmp_path / name, ((path_key("a.jpg"), jpeg(), (texts,)),))
        notes = export("odvg", run, tmp_path / f"{name}-export").notes
        return [note for note in notes if "full stop inside" in note]

    (note,) = told("some", "the st. bernard", "a dog.", "no. 5 of it", "the cup")
    assert note.startswith("2 expression(s) have a full stop inside.")
    assert not told("none", "a dog.", "the cup")


def key_of(image_id: str, text: str, masks) -> tuple[str, str, bytes]:
    """Return an expression with its targets in any order, each by its pixels."""
    return image_id, text, b"".join(sorted(np.packbits(mask).tobytes() for mask in masks))


def by_text(expressions) -> Counter:
    """Return the expressions as SAM 3 asks them: a text of an image has the targets of all that have it."""
    targets: dict = {}
    for each in expressions:
        found = targets.setdefault((each.image_id, each.text), {})
        found.update({mask.tobytes(): mask for mask in each.masks})
    return Counter(key_of(*key, found.values()) for key, found in targets.items())


def test_sam3_asks_each_image_for_its_own_texts_with_all_of_their_masks(exported, run_of_several):
    root, report = exported("sam3")
    found = Counter(key_of(shown(path), text, masks) for path, text, masks in read_sam3(root))
    assert found == by_text(true_expressions(run_of_several))
    # In portions of the model's limit too.
    portions = read_sam3(root, max_queries=2)
    assert Counter(key_of(shown(path), text, masks) for path, text, masks in portions) == found
    # "a thing" is said of two masks: one query, two annotations.
    (of_two,) = [masks for path, text, masks in read_sam3(root) if text == "a thing" and "three" in path.name]
    assert len(of_two) == 2
    assert report.rows["queries"] == len({text for _, text, _ in read_sam3(root)})


def test_sam3_asks_in_vain_only_where_it_was_checked_that_nothing_fits(exported, run_of_several):
    root, _ = exported("sam3")
    negative = {(shown(path), text) for path, text, masks in read_sam3(root) if not masks}
    due = {(each.image_id, each.text) for each in true_expressions(run_of_several) if not each.masks}
    assert negative == due
    # One of them is said of a mask of another image.
    assert "the left thing" in {text for _, text, masks in read_sam3(root) if masks} & {text for _, text in due}
    # The loader by itself asks every text of every image.
    alone = CocoFromJson(root / "annotations.json")
    queries, _ = alone.loadQueriesAndAnnotationsFromDatapoint(0)
    assert len(queries) == len({text for _, text, _ in read_sam3(root)})


def test_grefcocos_references_have_their_masks_in_order_or_none(exported, run_of_several):
    root, report = exported("grefcoco")
    found = Counter((shown(path), text, str([*map(np.packbits, masks)])) for path, text, masks in read_grefcoco(root))
    due = taken(run_of_several, "grefcoco")
    assert found == Counter((each.image_id, each.text, str([*map(np.packbits, each.masks)])) for each in due)
    assert report.rows["expressions"] == len(due)


def test_what_relas_resizing_makes_of_the_polygons_is_told(exported, run_of_several):
    """Its mapper (gres_model/data/dataset_mappers/refcoco_mapper.py) scales the points to 480 x 480, then fills."""
    root, report = exported("grefcoco")
    ious = []
    pixels = [mask.pixels for image in run_of_several.truth for mask in image.masks if mask.pixels.any()]
    for each in json.loads((root / "grefcoco/instances.json").read_text())["annotations"]:
        scaled = (np.reshape(each["segmentation"][0], (-1, 2)) * (480 / WIDTH, 480 / HEIGHT)).ravel().tolist()
        found = coco.decode(coco.merge(coco.frPyObjects([scaled], 480, 480))) == 1
        box = each["bbox"]
        (mask,) = [one for one in pixels if matches(one, box, each["area"])][:1]
        due = np.asarray(Image.fromarray(mask).resize((480, 480), Image.Resampling.NEAREST))
        ious.append((found & due).sum() / (found | due).sum())
    (note,) = [note for note in report.notes if note.startswith("ReLA resizes polygons to 480 x 480")]
    assert f"Of {len(ious)} masks" in note
    assert f"mean IoU of {np.mean(ious):.4f}" in note
    assert f"the worst has {min(ious):.4f}." in note
    _, report = exported("refer")
    assert any(note.startswith("ReLA resizes polygons") for note in report.notes)
    _, report = exported("refer", masks="rle")
    assert not any("ReLA" in note for note in report.notes)


def matches(pixels: np.ndarray, box: list[int], area: int) -> bool:
    x, y, width, height = box
    return int(pixels.sum()) == area == int(pixels[y : y + height, x : x + width].sum())


@pytest.mark.parametrize(("name", "read"), [("sa2va", read_sa2va), ("reasonseg", read_reasonseg)])
def test_a_text_has_the_united_mask_of_its_targets(name, read, exported, run_of_several):
    root, _ = exported(name)
    ids = (
        (lambda path: json.loads(path.with_suffix(".json").read_text())["source_image_id"])
        if name == "reasonseg"
        else shown
    )
    found = Counter(key_of(ids(path), text, masks) for path, text, masks in read(root))
    due = taken(run_of_several, name)
    assert found == Counter(key_of(each.image_id, each.text, [each.union]) for each in due)


def test_a_json_of_reasonseg_has_all_texts_of_its_masks_and_its_image_is_called_jpg(exported, run_of_several):
    root, report = exported("reasonseg")
    paths = sorted((root / "reason_seg/ReasonSeg/train").iterdir())
    assert Counter(path.suffix for path in paths) == {".jpg": len(paths) // 2, ".json": len(paths) // 2}
    assert b"\x89PNG" in {path.read_bytes()[:4] for path in paths}
    texts = [json.loads(path.read_text())["text"] for path in paths if path.suffix == ".json"]
    assert texts.count(["the left thing", "a thing"]) == 1
    assert report.rows == {
        "images": len(run_of_several.truth),
        "sets of masks": len(texts),
        "expressions": sum(map(len, texts)),
    }
    named, _ = exported("reasonseg", dataset="mine", split="val")
    assert len(list(read_reasonseg(named, "mine", "val"))) == report.rows["expressions"]
    exported("reasonseg", split="explanatory")


def test_label_studio_has_every_mask_its_texts_and_what_is_absent(exported, run_of_several):
    root, report = exported("label-studio")
    found = {shown(path): (regions, alone) for path, regions, alone in read_label_studio(root)}
    assert found.keys() == {image.image_id for image in run_of_several.truth}
    for image in run_of_several.truth:
        regions, alone = found[image.image_id]
        for (mask, texts), true in zip(regions.values(), image.masks, strict=True):
            assert np.array_equal(mask, true.pixels)
            assert texts == list(true.texts)
        assert alone == [text for text, places in groups_of(image.key) if not places]
    assert report.dropped["expressions that refer to several masks"] == 3


@pytest.mark.parametrize("name", [name for name in EXPORTS if name not in ("parquet", "pseudo-ris-csv")])
def test_what_a_format_does_not_take_is_counted_by_reason(name, exported, run_of_several):
    _, report = exported(name)
    rule = EXPORTS[name].takes
    expected = Counter()
    for each in true_expressions(run_of_several):
        if len(each.masks) > 1 and not rule.with_groups:
            expected["expressions that refer to several masks"] += 1
        elif not each.masks and not rule.with_none:
            expected["expressions that refer to no mask"] += 1
        elif part := next((part for part in rule.refused if part in each.text), None):
            expected[f"expressions that hold {part!r}"] += 1
    found = {reason: num for reason, num in report.dropped.items() if num and reason.startswith("expressions")}
    assert found == expected
    assert set(rule.refused) >= set(REFUSED.get(name, ()))


# Object 1 of an image 8 wide and 6 high, x 1 to 4 and y 1 to 5, as the sdk's `mask2rle` has it.
STROKES = bytes.fromhex("000000c0391bfe2300b7ff84c02dffe1300b7ff84c02dffe2f0000")


def test_brush_strokes_have_the_bytes_of_label_studios_own():
    pixels = np.zeros((6, 8), bool)
    pixels[1:5, 1:4] = True
    assert bytes(brush_strokes(pixels)) == STROKES


@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 1])
@pytest.mark.parametrize("size", [(1, 1), (6, 8), (301, 211)])
def test_brush_strokes_decode_to_the_mask_by_their_decoder_and_by_ours(size, share):
    pixels = np.random.default_rng(0).random(size) < share
    strokes = brush_strokes(pixels)
    assert all(0 <= each < 256 for each in strokes)
    for found in (decode_rle(strokes).reshape(*size, 4), pixels_of_strokes(strokes, size)[..., None] * np.uint8(255)):
        assert np.array_equal(found == 255, np.broadcast_to(pixels[..., None], found.shape))
    with pytest.raises(ValueError, match="do not have the size"):
        pixels_of_strokes(strokes, (size[0] + 1, size[1]))
