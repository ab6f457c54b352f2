"""A human's annotation in memory: images by path, masks, texts. Called by the imports and `training/evaluation`.

The files are untrusted: a path never leads out of the folder of images, and a mask is checked before it is decoded. Ids
of masks do not depend on the chosen splits.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any, Final

from pseudoris.images.pixels import exif_orientation, turn_upright
from pseudoris.interchange import Orientation
from pseudoris.primitives.errors import ConfigError, ImageError
from pseudoris.primitives.rle import MaskSizeError, canonical_counts, compressed_counts
from pseudoris.primitives.run_lengths import RleSummary, decode_mask, summarise_rle
from pseudoris.primitives.untrusted import kind_of, parse_json
from pseudoris.primitives.uris import secret_in
from pseudoris.schemas.config import ImagesConfig
from pseudoris.schemas.ids import mask_id
from pseudoris.schemas.shard import SOURCE_HUMAN, ExpressionRecord, Failure, MaskRecord, ShardImage, clean_text

# A name in a path may have at most this many bytes, because file systems allow no longer names.
_MAX_NAME_BYTES: Final = 255
_SHOWN_LETTERS: Final = 100
# A tokenizer reads these as the start or the end of a text, and a trainer then cuts what stands behind.
# Source: open_clip 3.3.0, tokenizer.py; vocabularies of CLIP, T5 and Qwen.
MARKERS: Final = (
    *("<start_of_text>", "<end_of_text>", "<|startoftext|>", "<|endoftext|>"),
    *("<|im_start|>", "<|im_end|>", "</s>"),
)


@dataclass(frozen=True, slots=True)
class HumanMask:
    """One annotated object; `index` is its position among all annotations of its image, whatever the chosen splits.

    `segmentation` has any of COCO's forms, unchecked, or is a function that returns compressed RLE for a size (H, W).
    """

    index: int
    annotation_id: int
    segmentation: Any


@dataclass(frozen=True, slots=True)
class HumanPhrase:
    """An expression that refers to one object, to several together, or to nothing in its image.

    Attributes:
        targets: Indexes of its masks, ascending; none if it refers to nothing.
        text: As the tables write it, not empty, once for the same masks.
        split: Its split; None where the annotation has none.
    """

    targets: tuple[int, ...]
    text: str
    split: str | None = None


@dataclass(frozen=True, slots=True)
class HumanImage:
    """One annotated image; its masks are ordered by index, its expressions are in the order of their rows.

    `path` is relative to the folder of images, and never leads out of it; `size` is (H, W) in pixels as the file states
    them, or None.
    """

    path: str
    size: tuple[int, int] | None
    masks: tuple[HumanMask, ...] = ()
    phrases: tuple[HumanPhrase, ...] = ()


@dataclass(frozen=True, slots=True)
class Annotation:
    """The content of an annotation: its images, each path once; sha256 by file; what is not imported, by kind."""

    images: tuple[HumanImage, ...]
    digests: Mapping[str, str]
    left_out: Counter[str]


def relative_path(file_name: Any, *, where: str) -> str:
    """Return the path of an image below the folder of images; refuse a path that leads out."""
    if not isinstance(file_name, str) or not file_name:
        raise ConfigError(f"{where} has the file_name {shown(file_name)}. The path of an image is needed.")
    secret = secret_in(file_name) if "://" in file_name else None
    if secret is not None:
        raise ConfigError(f"{where}: file_name: {secret}")
    path = PurePosixPath(file_name)
    is_relative = not path.is_absolute() and "://" not in file_name
    if not path.parts or not is_relative or ".." in path.parts or "\0" in file_name:
        raise ConfigError(
            f"{where} has the file_name {shown(file_name)}, which is outside the folder of images. Make it relative "
            "to IMAGES (or to --prefix, if given)."
        )
    try:
        is_short = all(len(os.fsencode(part)) <= _MAX_NAME_BYTES for part in path.parts)
    except UnicodeEncodeError:
        is_short = False
    if not is_short:
        raise ConfigError(f"{where} has the file_name {shown(file_name)}, which no file system allows. Fix it.")
    return str(path)


def read_json(data: bytes, where: str) -> Any:
    """Return the content of a JSON file, or raise a ConfigError; `where` names it."""
    try:
        return parse_json(data)
    except ValueError as error:
        raise ConfigError(f"{where} cannot be read as JSON ({error}). Download the file again.") from error


def clean_texts(
    texts: Iterable[Any], left_out: Counter[str], *, where: str, markers: Sequence[str] = MARKERS
) -> tuple[str, ...]:
    """Return texts as the tables write them, each once, in order; others are counted by why they are left out.

    A text that holds one of the `markers` is left out.
    """
    found: dict[str, None] = {}
    for text in texts:
        if not isinstance(text, str) or not is_utf8(text):
            raise ConfigError(
                f"{where} has the expression {shown(text)}. An expression must be a UTF-8 text. Fix the file."
            )
        clean = clean_text(text)
        marker = next((each for each in markers if each in clean), None)
        if marker is not None:
            left_out[f"expressions that hold the token {marker}"] += 1
        elif not clean:
            left_out["expressions without a letter"] += 1
        elif clean in found:
            left_out["repeated expressions of one mask"] += 1
        else:
            found[clean] = None
    return tuple(found)


def shown(value: Any) -> str:
    """Return an untrusted value for a message: short, and for a nested value only its kind."""
    if not isinstance(value, str | int | float):
        return kind_of(value)
    text = repr(value) if isinstance(value, str) else str(value).lower()
    return text if len(text) <= _SHOWN_LETTERS else f"{text[:_SHOWN_LETTERS]}…"


def is_utf8(text: str) -> bool:
    """Return whether a text of a foreign file can be written."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


STAGE_IMPORT: Final = "import"
_AS_STORED: Final = 1


def annotate_image(
    image: ShardImage,
    human: HumanImage,
    *,
    orientation: Orientation,
    limits: ImagesConfig,
    on_bad_mask: Callable[[str], None] | None = None,
) -> ShardImage:
    """Return the image with the human's masks and expressions; quarantined if they do not fit the image.

    A mask without a pixel and its expressions are left out, as a proposer leaves them out. `stored` masks are turned by
    the image's EXIF orientation. An image that was quarantined as it was read stays so.

    With `on_bad_mask`, which is told why, a mask that does not fit is left out alone, with what is said of it.
    """
    if image.failure or image.height is None or image.width is None:
        return image
    try:
        turn = exif_orientation(image.data, limits.decoder_plugins) if orientation == "stored" else _AS_STORED
        upright = (image.height, image.width)
        size = upright if turn < 5 else (upright[1], upright[0])
        if human.size not in (None, size):
            stated, hint = human.size or size, ""
            if stated == (size[1], size[0]):
                other = "stored" if orientation == "upright" else "upright"
                hint = f"; sides swapped, it may be of the {other} image: --orientation {other}"
            raise ImageError(
                "annotation_mismatch",
                f"the annotation says {stated[0]} x {stated[1]} pixels (height x width), the {orientation} image has "
                f"{size[0]} x {size[1]}{hint}",
            )
        shape = partial(_shape, size=size, turn=turn, on_bad_mask=on_bad_mask)
        found = [(mask, *shaped) for mask in human.masks if (shaped := shape(mask))]
    except ImageError as error:
        return image.quarantined(Failure(STAGE_IMPORT, error.reason, error.message))
    bad = {mask.index for mask in human.masks} - {mask.index for mask, *_ in found}
    masks = tuple(
        MaskRecord(
            mask_id=mask_id(image.image_id, mask.index),
            index=mask.index,
            rle_size=upright,
            rle_counts=counts,
            box_xyxy_px=summary.box_xyxy_px,
            area_px=summary.area_px,
            prior=f"{SOURCE_HUMAN}:{mask.annotation_id}",
        )
        for mask, counts, summary in found
        if summary.area_px
    )
    kept, said = {mask.index for mask in masks}, dict[tuple[tuple[str, ...], str], ExpressionRecord]()
    for phrase in human.phrases:
        targets = tuple(mask_id(image.image_id, index) for index in phrase.targets if index in kept)
        # An expression whose masks all lack pixels is dropped. Otherwise it would become a no-target expression.
        if (targets or not phrase.targets) and bad.isdisjoint(phrase.targets):
            kind = ("none", "attribute", "group")[min(len(targets), 2)]
            of_human = partial(ExpressionRecord, samples=(), kept=True, source=SOURCE_HUMAN)
            # Of two objects one may have no pixel, and what is said of both is then said of the other one too.
            said.setdefault((targets, phrase.text), of_human(targets, phrase.text, kind=kind, split=phrase.split))
    return replace(image, masks=masks, expressions=tuple(said.values()))


def _shape(
    mask: HumanMask, size: tuple[int, int], turn: int, on_bad_mask: Callable[[str], None] | None
) -> tuple[str, RleSummary] | None:
    """Return the upright run lengths; None for a bad mask after it was told."""
    where = f"annotation {mask.annotation_id}"
    try:
        given = mask.segmentation
        counts = given(size) if callable(given) else compressed_counts(given, size)
        if counts is None:
            return "", RleSummary(0, (0, 0, 0, 0))
        # The run lengths are checked first, because pycocotools could write outside of its memory.
        summary = summarise_rle(*size, counts)
    except ValueError as error:
        if on_bad_mask is not None:
            on_bad_mask(f"{where}: {error}")
            return None
        reason = "annotation_mismatch" if isinstance(error, MaskSizeError) else "annotation_damaged"
        raise ImageError(reason, f"{where}: {error}") from error
    if turn == _AS_STORED or not summary.area_px:
        return counts, summary
    upright = turn_upright(decode_mask(counts, *size), turn)
    counts = canonical_counts(upright)
    return counts, summarise_rle(upright.shape[0], upright.shape[1], counts)
