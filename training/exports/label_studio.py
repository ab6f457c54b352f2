"""Label Studio: the masks as brush strokes and their expressions as text of each, for people to look at and to correct.

DEST/tasks.json              a task an image: a region a mask, with its expressions; what is absent as text of the image
DEST/config.xml              the labelling interface that the tasks need
DEST/images/<file_name>      the images, upright

Source: label-studio-sdk 2.1.2, converter/brush.py and label_interface.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pseudoris.training.exports.export_job import ExportFormat, ExportJob, ExportReport
from pseudoris.training.exports.record import Content, ExportImage, canonical_counts
from pseudoris.training.exports.record_lists import IMAGES_FOLDER, write_records
from pseudoris.training.exports.selected_rows import TextRule

_CONFIG: Final = """<View>
  <Image name="image" value="$image"/>
  <BrushLabels name="mask" toName="image"><Label value="object"/></BrushLabels>
  <TextArea name="text" toName="image" perRegion="true" editable="true"/>
  <TextArea name="absent" toName="image" editable="true"/>
</View>
"""
_URL: Final = f"/data/local-files/?d={IMAGES_FOLDER}/"
# Red, green, blue and opacity.
_CHANNELS: Final = 4
# The number of values and the bits of one, less 1; then the bits of each kind of length, less 1.
_HEAD_BITS: Final = 32 + 5
_LENGTH_BITS: Final = (3, 4, 8, 16)
_VALUE_BITS: Final = 8


def brush_strokes(pixels: NDArray[np.bool_]) -> list[int]:
    """Return a mask (height, width) as the brush's bytes, each 0 to 255.

    The image's bytes RGBA row by row, all 0 or 255, in runs: a bit 1, two bits for the kind of length, the length less
    1, the value.
    """
    flat = pixels.ravel()
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size) * _CHANNELS
    bits = [f"{flat.size * _CHANNELS:032b}{_VALUE_BITS - 1:05b}", *(f"{each - 1:04b}" for each in _LENGTH_BITS)]
    start = 0
    for end in ends.tolist():
        value = f"{255 * int(flat[start // _CHANNELS]):08b}"
        while start < end:
            length = min(end - start, 2 ** _LENGTH_BITS[-1])
            kind = next(at for at, size in enumerate(_LENGTH_BITS) if length <= 2**size)
            bits.append(f"1{kind:02b}{length - 1:0{_LENGTH_BITS[kind]}b}{value}")
            start += length
    whole = "".join(bits)
    # Filled up to whole bytes, and a byte more where none is missing.
    whole += "0" * (8 - len(whole) % 8)
    return list(int(whole, 2).to_bytes(len(whole) // 8, "big"))


def pixels_of_strokes(strokes: list[int], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the mask of what `brush_strokes` gives; a ValueError where the bytes are none of an image of that size."""
    bits = "".join(f"{each:08b}" for each in strokes)
    values = np.zeros(size[0] * size[1] * _CHANNELS, np.uint8)
    if int(bits[:32], 2) != values.size:
        raise ValueError(f"the strokes do not have the size {size} (height, width)")
    start, at = 0, _HEAD_BITS + 4 * len(_LENGTH_BITS)
    while start < values.size:
        length_end = at + 3 + _LENGTH_BITS[int(bits[at + 1 : at + 3], 2)]
        end = start + int(bits[at + 3 : length_end], 2) + 1
        values[start:end] = int(bits[length_end : length_end + _VALUE_BITS], 2)
        start, at = end, length_end + _VALUE_BITS
    pixels = values.reshape(*size, _CHANNELS)
    if not (pixels == 255 * (pixels[..., :1] > 0)).all():
        raise ValueError("the strokes have other values than 0 and 255")
    return np.asarray(pixels[..., 0] > 0)


def _write(job: ExportJob) -> ExportReport:
    notes = (
        "Start Label Studio with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and "
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT set to this folder. Give the project the interface of config.xml, and "
        "the folder images as local storage. Then import tasks.json.",
        "The masks are predictions: an annotator accepts or corrects them.",
    )
    return write_records(job, "tasks.json", _tasks, _read, notes=notes, others={"config.xml": _CONFIG.encode()})


_TAKES: Final = TextRule(keeps_bare_masks=True, with_none=True)
_SUMMARY: Final = "tasks with the masks as brush strokes and their expressions, for Label Studio"
LABEL_STUDIO: Final = ExportFormat("label-studio", _SUMMARY, _write, _TAKES)


def _tasks(image: ExportImage) -> Iterator[tuple[dict[str, Any], Content]]:
    height, width = image.size
    shared = {"to_name": "image", "original_width": width, "original_height": height, "image_rotation": 0}
    regions: list[dict[str, Any]] = []
    counts = []
    for mask, said in image.masks_with_texts():
        pixels = mask.pixels()
        counts.append(canonical_counts(pixels))
        stroke = {"format": "rle", "rle": brush_strokes(pixels), "brushlabels": ["object"]}
        region = {"id": mask.record.mask_id, **shared}
        regions.append({**region, "from_name": "mask", "type": "brushlabels", "value": stroke})
        # A text of a region is a result of its own with the same id.
        if said:
            value = {"text": [each.text for each in said]}
            regions.append({**region, "from_name": "text", "type": "textarea", "value": value})
    if absent := [each.text for each in image.expressions if not each.targets]:
        value = {"text": absent}
        regions.append({"id": "absent", **shared, "from_name": "absent", "type": "textarea", "value": value})
    task = {
        "data": {"image": f"{_URL}{image.name}"},
        "predictions": [{"model_version": "pseudoris", "result": regions}],
    }
    yield task, image.content(image.name, counts)


def _read(task: dict[str, Any]) -> Content:
    (prediction,) = task["predictions"]
    counts: list[str] = []
    places: dict[str, tuple[int, ...]] = {"absent": ()}
    texts: list[tuple[str, tuple[int, ...]]] = []
    size = (0, 0)
    for region in prediction["result"]:
        size, value = (region["original_height"], region["original_width"]), region["value"]
        if region["from_name"] == "mask":
            places[region["id"]] = (len(counts),)
            counts.append(canonical_counts(pixels_of_strokes(value["rle"], size)))
        else:
            texts += [(text, places[region["id"]]) for text in value["text"]]
    return Content(task["data"]["image"].removeprefix(_URL), size, tuple(counts), tuple(texts))
