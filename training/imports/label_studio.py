"""Label Studio: reads the tasks of `export --format label-studio` again, as people left them, from its export as JSON.

    [{"data": {"image": "…/<name>_<image id>.jpg"}, "annotations": [{"id": 7, "result": [result, …], …}, …]}, …]

A region's mask and its texts are results with one id, which is the mask's where the region is one of the run. What is
said under the name `absent` means nothing that is in the image.

Of several annotations of an image one counts: a ground truth before others, then the latest. Skipped ones never do.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

import numpy as np

from pseudoris.schemas.errors import ConfigError
from pseudoris.training.brush_strokes import values_of_strokes
from pseudoris.training.imports.human_annotation import clean_texts, read_json, shown
from pseudoris.workers.masks.rle import areas, canonical_counts, compressed_counts, decode, shares_inside

_BRUSH: Final = ("brush", "brushlabels")
_POLYGON: Final = ("polygon", "polygonlabels")
_ABSENT: Final = "absent"
# The end of the names that an export gives to images.
_IMAGE_ID: Final = re.compile(r"([0-9a-f]{16})\.(?:jpg|png)$")
_OPAQUE: Final = 128
_EXPORT_JSON: Final = "In Label Studio, export the project as JSON (not JSON-MIN)."
_OTHER_RUN: Final = "Give the run that the tasks were exported from."
# Of a mask and of what it became: less in common is another object.
_SAME_OBJECT: Final = 0.5


@dataclass(frozen=True, slots=True)
class StudioTask:
    """An image that a person annotated or skipped.

    Attributes:
        where: For messages.
        annotation_id: Of the annotation that counts; 0 if the file names none.
        updated_utc: When it was last changed, as the file says.
        results: Unchecked; None if it was only skipped.
    """

    where: str
    annotation_id: int
    updated_utc: str
    results: Sequence[Mapping[str, Any]] | None


@dataclass(frozen=True, slots=True)
class Region:
    """A mask as a person left it, with its expressions.

    Attributes:
        region_id: As Label Studio has it; of a mask that was changed still the mask's.
        mask_id: Of the mask of the run that has the same pixels; None if the region was changed or drawn.
        counts: The encoding that pycocotools gives for its pixels.
    """

    region_id: str
    mask_id: str | None
    counts: str
    texts: tuple[str, ...]


def read_tasks(data: bytes, name: str) -> dict[str, StudioTask]:
    """Return the annotated and the skipped images by id; a file that is not Label Studio's is a ConfigError."""
    document = read_json(data, name)
    if not isinstance(document, list):
        raise ConfigError(f"{name} is not a list of tasks. {_EXPORT_JSON}")
    found: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    places: dict[str, str] = {}
    for place, task in enumerate(document):
        where = f"{name}: task {place}"
        values, annotations = (task.get("data"), task.get("annotations")) if isinstance(task, dict) else (None, None)
        url = values.get("image") if isinstance(values, dict) else None
        if not isinstance(url, str) or annotations is None or not _are_objects(annotations):
            raise ConfigError(f"{where} has no `data.image` and list of `annotations`. {_EXPORT_JSON}")
        image = _IMAGE_ID.search(unquote(url))
        if image is None:
            raise ConfigError(
                f"{where} shows {shown(url)}, which is no image of `pseudoris export --format label-studio`. "
                "Give the file of a project whose tasks that command wrote."
            )
        found[image[1]] += annotations
        places.setdefault(image[1], where)
    tasks = {image: _task(annotations, places[image]) for image, annotations in found.items() if annotations}
    if not tasks:
        raise ConfigError(
            f"{name} has no annotation. Submit some tasks in Label Studio, then export the project as JSON."
        )
    return tasks


def _are_objects(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(each, dict) for each in values)


def _task(annotations: Sequence[Mapping[str, Any]], where: str) -> StudioTask:
    counting = [each for each in annotations if not each.get("was_cancelled")]
    chosen = max(counting or annotations, key=lambda each: (bool(each.get("ground_truth")), _updated(each), _id(each)))
    results = chosen.get("result")
    if counting and not _are_objects(results):
        raise ConfigError(f"{where} has an annotation without a list of results. {_EXPORT_JSON}")
    return StudioTask(where, _id(chosen), _updated(chosen), results if counting else None)


def _updated(annotation: Mapping[str, Any]) -> str:
    when = annotation.get("updated_at") or annotation.get("created_at")
    return when if isinstance(when, str) else ""


def _id(annotation: Mapping[str, Any]) -> int:
    number = annotation.get("id")
    return number if isinstance(number, int) else 0


def read_regions(
    task: StudioTask, size: tuple[int, int], masks: Mapping[str, str], left_out: Counter[str]
) -> tuple[list[Region], tuple[str, ...]]:
    """Return the regions of an image of upright (height, width) `size`, and the expressions that mean no mask.

    `masks` are the encodings of the image's masks by id, of which a region may be one.

    Raises:
        ConfigError: A result is damaged, of an unknown type, or of an image of another size.
    """
    drawn: dict[str, str] = {}
    texts: defaultdict[str, list[Any]] = defaultdict(list)
    for number, result in enumerate(task.results or ()):
        where = f"{task.where}, result {number}"
        kind, value, region = result.get("type"), result.get("value"), result.get("id")
        if not isinstance(value, dict) or not isinstance(region, str):
            raise ConfigError(f"{where} is {shown(kind)}, without an id or a value. Delete it in Label Studio.")
        if kind == "textarea":
            said = value.get("text")
            texts[_ABSENT if result.get("from_name") == _ABSENT else region] += (
                said if isinstance(said, list) else [said]
            )
        elif region in drawn:
            raise ConfigError(f"{where} is a second mask with the id {shown(region)}. Delete one in Label Studio.")
        else:
            drawn[region] = _counts(kind, result, value, size, where)
    absent = clean_texts(texts.pop(_ABSENT, ()), left_out, where=task.where)
    left = {mask: canonical_counts(decode([counts], size)[0]) for mask, counts in masks.items()}
    regions = []
    for region, counts in drawn.items():
        said = clean_texts(texts.pop(region, ()), left_out, where=f"{task.where}: region {shown(region)}")
        if not areas([counts], size)[0]:
            left_out["regions without a pixel"] += 1
            continue
        same = [mask for mask in left if left[mask] == counts]
        mask = region if region in same else next(iter(same), None)
        left.pop(mask or "", None)
        regions.append(Region(region, mask, counts, said))
    left_out["expressions of deleted regions"] += sum(map(len, texts.values()))
    return regions, absent


def _counts(kind: Any, result: Mapping[str, Any], value: Mapping[str, Any], size: tuple[int, int], where: str) -> str:
    if kind not in (*_BRUSH, *_POLYGON):
        raise ConfigError(f"{where} is {shown(kind)}. Only brushes and polygons can be read: draw the mask with these.")
    stated = (result.get("original_height"), result.get("original_width"))
    if stated != size:
        raise ConfigError(
            f"{where} is of an image of {shown(stated[0])} x {shown(stated[1])} pixels (height x width), but the image "
            f"has {size[0]} x {size[1]}. {_OTHER_RUN}"
        )
    if result.get("image_rotation"):
        raise ConfigError(f"{where} is of a rotated image. Turn it back in Label Studio, then correct it.")
    try:
        if kind in _BRUSH:
            pixels = np.asarray(values_of_strokes(value.get("rle"), size)[..., 3] >= _OPAQUE)
            return canonical_counts(pixels)
        # Points are in hundredths of the image's sides.
        points = [(x * size[1] / 100, y * size[0] / 100) for x, y in value.get("points", ())]
        return str(compressed_counts([[each for point in points for each in point]], size))
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"{where} has a mask that cannot be read ({error}). Draw it again in Label Studio."
        ) from error


def implied_verdict(
    mask: str, counts: str, text: str, regions: Sequence[Region], size: tuple[int, int]
) -> tuple[str, str]:
    """Return the verdict of an audit that an annotation implies about a text of a mask, and why.

    A person who leaves text and mask has found them right. Why a text was changed is not known: it counts as untrue.
    """
    region = next((each for each in regions if each.mask_id == mask), None)
    if region is None:
        region = next((each for each in regions if each.region_id == mask and each.mask_id is None), None)
        if region is None:
            return "not_an_object", "the mask was deleted"
        shares = (shares_inside([counts], [region.counts], size), shares_inside([region.counts], [counts], size))
        if min(float(share[0, 0]) for share in shares) < _SAME_OBJECT:
            return "not_an_object", "the mask was drawn anew"
    return (
        ("right", "text and mask were left") if text in region.texts else ("untrue", "the text was changed or deleted")
    )
