"""The boundary around an engine: what it raises on one image, or returns for it, costs that image alone.

`StageKind.build` puts it around every engine, also in subprocesses; `tolerant_stages` takes `refuse_one_fault`. Only
what the tables can hold may pass it. If several images fail alike, the engine is at fault, and the run stops instead.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Final

from pydantic import BaseModel, Field, ValidationError

from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.run_lengths import mask_faults
from pseudoris.schemas.ids import mask_id
from pseudoris.schemas.shard import (
    SOURCE_MODEL,
    SOURCES,
    ExpressionRecord,
    Failure,
    MaskRecord,
    Shard,
    ShardImage,
    is_blank,
)
from pseudoris.schemas.shard_blocks import shard_to_block
from pseudoris.schemas.tables import FAILURE_REASONS
from pseudoris.workers.faults.quarantine import BAD_OUTPUT, apply_to_images, may_blame_image

logger = logging.getLogger(__name__)

# A text has at most this many letters: no expression is longer, and a text model needs minutes to split a megabyte.
MAX_TEXT_LENGTH: Final = 10_000
_MAX_MESSAGE: Final = 300
# If at least this many images fail, all alike, and none succeeds, the engine is at fault.
_SEVERAL: Final = 3
# Two messages of one fault may differ in these parts: quoted values and numbers.
_VALUES: Final = re.compile(r"""'[^']*'|"[^"]*"|\d[\d,.]*""")
# Arrow and pydantic raise these types for a wrong value, or for a record without an attribute.
_OUTPUT_ERRORS: Final = (ValueError, TypeError, AttributeError, OverflowError)
_AGAINST_OTHERS: Final = ("uniqueness", "distinctiveness", "rival_mask_id")


class _Records(BaseModel):
    masks: tuple[MaskRecord, ...]
    expressions: tuple[ExpressionRecord, ...]
    failure: Failure | None
    num_too_small: Annotated[int, Field(ge=0, lt=2**31)] | None
    whole_picture: tuple[Annotated[str, Field(max_length=MAX_TEXT_LENGTH)], ...]
    masks_left: dict[str, Annotated[int, Field(ge=0, lt=2**63)]] | None


class _Figures(BaseModel):
    seconds: dict[str, float]
    long_texts: int
    decisions: int
    wide_decisions: int


class ImageBoundary:
    """A stage in which each image fails alone.

    An image on which the engine raises, also outside of `apply_to_images`, is found by trying each one alone; the
    others then run together. Of what the engine returns, only `_Records` of the images that it was
    given count, and each is checked.
    """

    def __init__(self, engine: Callable[[Shard], Shard], name: str, *, is_scored: bool = False) -> None:
        """Put the boundary around an engine of the stage `name`; `is_scored`: its expressions must have scores."""
        self.engine, self._name, self._is_scored = engine, name, is_scored

    def __call__(self, shard: Shard) -> Shard:
        """Return the shard after the stage.

        Raises:
            ConfigError: The engine returns no shard, or one with the same fault for each of several images.
            Exception: Of the engine, if it may not be blamed on an image, or if each of several images raises it alone.
        """
        try:
            done = self.engine(shard)
        except Exception as error:
            if not may_blame_image(error):
                raise
            blamed = self._blamed(shard)
            if not blamed:
                raise
            shard = shard.with_images(tuple(blamed.get(image.position, image) for image in shard.images))
            done = self.engine(shard)
        return self._accepted(shard, done)

    def _blamed(self, shard: Shard) -> dict[int, ShardImage]:
        """Return the images that fail alone, quarantined; none if several were tried and all fail: the engine does."""
        tried = [image for image in shard.images if not image.failure]
        alone = apply_to_images(shard.with_images(tuple(tried)), self._name, partial(self._alone, shard)).images
        blamed = {image.position: image for image in alone if image.failure}
        return blamed if len(tried) < _SEVERAL or len(blamed) < len(tried) else {}

    def _alone(self, shard: Shard, image: ShardImage) -> ShardImage:
        lone = shard.with_images((image,))
        return self._accepted(lone, self.engine(lone)).images[0]

    def _accepted(self, before: Shard, done: Shard) -> Shard:
        try:
            figures = _Figures.model_validate(done, from_attributes=True)
            found: dict[str, list[ShardImage]] = {image.image_id: [] for image in before.images}
            for image in done.images:
                if isinstance(image, ShardImage) and (key := str(image.image_id)) in found:
                    found[key].append(image)
        except _OUTPUT_ERRORS as error:
            raise ConfigError(
                f"the engine of the {self._name} stage returned no shard ({_told(error)}): see docs/guides/plugins.md"
            ) from error
        images = tuple(self._image(image, found[image.image_id]) for image in before.images)
        images = self._held_by_tables(before.images, images)
        returned = [after.failure for image, after in zip(before.images, images, strict=True) if after != image]
        refuse_one_fault(returned, BAD_OUTPUT)
        return replace(before, images=images, **vars(figures))

    def _image(self, before: ShardImage, found: list[ShardImage]) -> ShardImage:
        if before.failure is not None:
            return before
        try:
            _require(len(found) == 1, f"the image {len(found)} times")
            done = replace(before, **vars(_Records.model_validate(found[0], from_attributes=True)))
            # A later stage may make new records, without what the proposer counted.
            done = replace(done, masks_left=done.masks_left or before.masks_left)
            if done.failure is not None:
                _require(done.failure.reason in FAILURE_REASONS, f"the unknown reason {done.failure.reason!r}")
                done = before.quarantined(replace(done.failure, stage=self._name))
            elif done.masks != before.masks:
                _check_masks(done)
            _check_expressions(done, is_scored=self._is_scored)
        except _OUTPUT_ERRORS as error:
            return self._refused(before, error)
        return done

    def _held_by_tables(self, before: Sequence[ShardImage], after: tuple[ShardImage, ...]) -> tuple[ShardImage, ...]:
        """Return the images `after`; one with what no type of the tables holds is quarantined (a lone surrogate)."""
        try:
            # All images are checked at once, because checking them one by one takes longer than all other checks.
            shard_to_block(Shard(0, 0, tuple(replace(image, data=b"") for image in after)))
        except _OUTPUT_ERRORS as error:
            if len(after) == 1:
                return (self._refused(before[0], error),)
            pairs = zip(before, after, strict=True)
            return tuple(self._held_by_tables((one,), (other,))[0] for one, other in pairs)
        return after

    def _refused(self, before: ShardImage, error: Exception) -> ShardImage:
        message = f"the {self._name} stage returned {_told(error)}"
        logger.warning("image %s (%s): %s", before.image_id, before.key, message)
        return before.quarantined(Failure(self._name, BAD_OUTPUT, message))


def refuse_one_fault(failures: Sequence[Failure | None], reason: str) -> None:
    """Raise a ConfigError if several images all have one failure for `reason`: it is the engine's, of every shard."""
    faults = {each and each.reason == reason and _VALUES.sub("", each.message) for each in failures}
    if len(failures) >= _SEVERAL and len(faults) == 1 and failures[0] and any(faults):
        raise ConfigError(
            f"{failures[0].message}, and the like for each of {len(failures)} images: correct the engine, "
            "docs/guides/plugins.md has the rules"
        )


def _check_masks(image: ShardImage) -> None:
    size, last = (image.height or 0, image.width or 0), -1
    for number, mask in enumerate(image.masks):
        at = f"masks.{number}"
        _require(mask.index > last, f"{at}.index {mask.index} after {last}: they must ascend from 0")
        last = mask.index
        _require(mask.mask_id == mask_id(image.image_id, last), f"{at}.mask_id {mask.mask_id!r}, not by `ids.mask_id`")
        said = mask_faults(size, mask.rle_size, mask.rle_counts, area_px=mask.area_px, box_xyxy_px=mask.box_xyxy_px)
        for _, fault in said:
            raise ValueError(f"{at}: it {fault}")


def _check_expressions(image: ShardImage, *, is_scored: bool) -> None:
    known, seen = {mask.mask_id for mask in image.masks}, set()
    for number, each in enumerate(image.expressions):
        at, text, targets = f"expressions.{number}", each.text, set(each.target_mask_ids)
        is_known = targets <= known and len(targets) == len(each.target_mask_ids)
        _require(is_known, f"{at}.target_mask_ids that are no masks of the image, or repeated")
        rivals = {each.rival_mask_id, each.grounding_rival} - {None}
        _require(rivals <= known - targets, f"{at} with a rival that is no other mask of the image")
        _require(len(text) <= MAX_TEXT_LENGTH, f"{at}.text of {len(text):,} letters; {MAX_TEXT_LENGTH:,} fit")
        is_clean = not is_blank(text) and text == text.strip().lower()
        _require(is_clean, f"{at}.text {text[:60]!r}, which is blank, not stripped or not lower case")
        _require((each.target_mask_ids, text) not in seen, f"{at}.text {text[:60]!r} again: merge their samples")
        seen.add((each.target_mask_ids, text))
        is_drawn = each.source == SOURCE_MODEL
        is_sound = each.source in SOURCES and is_drawn == bool(each.samples)
        _require(is_sound, f"{at}.samples of {len(each.samples)} draws with the source {each.source!r}")
        if is_scored and is_drawn and len(targets) == 1:
            lacks = {getattr(each, name) is None for name in _AGAINST_OTHERS}
            _require(lacks == {len(known) == 1}, f"{at}: {', '.join(_AGAINST_OTHERS)} are None only for a lone mask")


def _require(holds: bool, found: str) -> None:
    if not holds:
        raise ValueError(found)


def _told(error: Exception) -> str:
    """Return an error as text that is the same in every process, and that a table can hold."""
    text = str(error)
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        text = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return text[:_MAX_MESSAGE].encode("utf-8", "backslashreplace").decode()
