"""Selects the images, masks and expressions that a format takes, and reads the images' bytes.

Called by `export_job`, `export_options`, the formats, and `training/ppt`. Rows that are left out are counted by reason.
The bytes are those that were annotated: embedded in the run, or read again from SOURCE and checked by sha256.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from pseudoris.primitives.errors import ImageError
from pseudoris.schemas.run_records import RunHeader
from pseudoris.schemas.shard import SOURCE_MODEL, SOURCE_RECIPE, ExpressionRecord, is_blank
from pseudoris.schemas.tables import IMAGES, STATUS_QUARANTINED
from pseudoris.store.exclusion_rules import ExclusionMatcher, Exclusions, beyond, planned_rules
from pseudoris.store.tables.annotations import AnnotatedImage, AnnotatedMask
from pseudoris.store.tables.image_bytes import PlannedImages
from pseudoris.store.tables.open_run import CommittedShard
from pseudoris.store.tables.proven_rows import prove_hashes

logger = logging.getLogger(__name__)

WITHOUT_TEXT: Final = "expressions without a text"
SEVERAL_TARGETS: Final = "expressions that refer to several masks"
NO_TARGET: Final = "expressions that refer to no mask"
WITHOUT_PIXELS: Final = "masks without a pixel"
WITHOUT_PIXELS_OF_ONE: Final = "expressions of several masks, one without a pixel"
WITHOUT_EXPRESSION: Final = "masks without an expression"
NOT_DISTINCTIVE: Final = "masks without an expression above tau"
WRONG_LABEL: Final = "texts of a recipe that do not name their mask"
WITHOUT_MASK: Final = "images without a mask"
NONE_ALONE: Final = "expressions that refer to no mask, of images without another"
WITHOUT_SPLIT: Final = "images that are in no split"
_BARE_IMAGES: Final = "images whose masks have no {}"
WITHOUT_KEPT: Final = _BARE_IMAGES.format("kept expression")
UNREADABLE: Final = "images that are missing from SOURCE, or changed there"


@dataclass(frozen=True, slots=True)
class TextRule:
    """Which masks and expressions a format takes, and in which form.

    Attributes:
        max_tokens: The most CLIP tokens, start and end included; None for no limit.
        is_lower_case: Whether capitals become small letters; the tables hold none, an import's texts may.
        refused: Strings that no text may hold.
        is_kept_only: Whether candidates that the filter did not keep are left out; those are not counted as dropped.
        is_distinctive_only: Whether a mask needs a kept expression, or a caption without a distinctiveness (a mask
            alone in its image).
        keeps_bare_masks: Whether masks stay also without an expression.
        with_samples: Whether expressions come with every draw.
        with_groups: Whether expressions of several masks are taken; `with_none`, of those that refer to no mask.
        max_side_ratio: The most that one side of an image is of the other; None for no limit.
    """

    max_tokens: int | None = None
    is_lower_case: bool = False
    refused: tuple[str, ...] = ()
    is_kept_only: bool = True
    is_distinctive_only: bool = False
    keeps_bare_masks: bool = False
    with_samples: bool = False
    with_groups: bool = False
    with_none: bool = False
    max_side_ratio: int | None = None


class Selection:
    """Leaves out the rows that a rule excludes, and counts them by reason.

    An image without a mask is left out, because it may still show objects. An expression that refers to several masks
    or to none is left out unless the format can hold it. If a mask loses its last expression, both are counted.
    """

    def __init__(self, rule: TextRule, dropped: Counter[str]) -> None:
        self._rule = rule
        self._dropped = dropped
        if rule.max_tokens is not None:
            # The import is here, because it loads torch, which takes seconds.
            from pseudoris.primitives.clip_tokenizer import num_clip_tokens

            self._num_tokens = num_clip_tokens

    def image(self, image: AnnotatedImage) -> AnnotatedImage | None:
        """Return the image with its remaining rows, None if there are none."""
        with_pixels = [mask for mask in image.masks if mask.area_px > 0]
        if num_without := len(image.masks) - len(with_pixels):
            self._dropped[WITHOUT_PIXELS] += num_without
        left = {mask.mask_id for mask in with_pixels}
        masks = tuple(mask for each in with_pixels if (mask := self._mask(each, left)))
        untargeted = tuple(each for said in image.untargeted if (each := self._expression(said, "", left)))
        most, sides = self._rule.max_side_ratio, sorted((image.height, image.width))
        if most is not None and sides[1] > most * sides[0]:
            self._dropped[f"images with a side above {most} times the other"] += 1
            return None
        if not masks:
            # An image that has only no-target expressions is left out, because some loaders fail without a target.
            self._dropped.update([NONE_ALONE] * len(untargeted))
            self._dropped[self._reason_without_masks() if image.masks else WITHOUT_MASK] += 1
            return None
        return replace(image, masks=masks, untargeted=untargeted)

    def _mask(self, mask: AnnotatedMask, left: set[str]) -> AnnotatedMask | None:
        expressions = tuple(each for said in mask.expressions if (each := self._expression(said, mask.mask_id, left)))
        if not expressions and not self._rule.keeps_bare_masks:
            self._dropped[WITHOUT_EXPRESSION] += 1
            return None
        if self._rule.is_distinctive_only and not is_distinctive(expressions):
            self._dropped[NOT_DISTINCTIVE] += 1
            return None
        # A record is copied only if it changes, because copies took a tenth of an export's time.
        return mask if expressions == mask.expressions else replace(mask, expressions=expressions)

    def _reason_without_masks(self) -> str:
        if self._rule.keeps_bare_masks:
            return _BARE_IMAGES.format("pixel")
        if self._rule.is_distinctive_only:
            return _BARE_IMAGES.format("expression above tau")
        return WITHOUT_KEPT if self._rule.is_kept_only else _BARE_IMAGES.format("expression")

    def _expression(self, expression: ExpressionRecord, mask_id: str, left: set[str]) -> ExpressionRecord | None:
        text = expression.text.strip()
        text = text.lower() if self._rule.is_lower_case else text
        reason = self._refusal(expression, text, left)
        if reason is None:
            return expression if text == expression.text else replace(expression, text=text)
        # Each of several masks may list the same expression, so it is counted once, with its first mask.
        if mask_id in ("", *expression.target_mask_ids[:1]):
            self._dropped[reason] += 1
        return None

    def _refusal(self, expression: ExpressionRecord, text: str, left: set[str]) -> str | None:
        targets = expression.target_mask_ids
        if not targets and not self._rule.with_none:
            return NO_TARGET
        if len(targets) > 1 and not self._rule.with_groups:
            return SEVERAL_TARGETS
        if not left.issuperset(targets):
            return WITHOUT_PIXELS_OF_ONE
        if is_blank(text):
            return WITHOUT_TEXT
        if expression.source == SOURCE_RECIPE and not expression.kept:
            return WRONG_LABEL
        for each in self._rule.refused:
            if each in text:
                return f"expressions that hold {each!r}"
        limit = self._rule.max_tokens
        if limit is not None and self._num_tokens(text) > limit:
            return f"expressions of more than {limit} CLIP tokens"
        return None


def is_distinctive(expressions: Sequence[ExpressionRecord]) -> bool:
    """Return whether one of a mask's expressions is kept; a caption without a distinctiveness counts as kept."""
    return any(each.kept or (each.distinctiveness is None and each.source == SOURCE_MODEL) for each in expressions)


def with_source_bytes(
    planned: PlannedImages, images: Sequence[AnnotatedImage], dropped: Counter[str]
) -> Iterator[AnnotatedImage]:
    """Yield a shard's images, in plan order, with their encoded bytes; one that is missing or changed is left out.

    It is counted in `dropped`, and is no error: of millions of files some are always missing, and the rest of the run
    is still valid. A SOURCE that does not exist any more, or cannot be read, is a ConfigError.
    """
    wanted = [(image.key, image.sha256, image.data) for image in images]
    for image, data in zip(images, planned.outcomes(images[0].shard, wanted) if images else (), strict=True):
        if isinstance(data, ImageError):
            logger.warning("%s is left out: %s", image.key, data)
            dropped[UNREADABLE] += 1
            continue
        yield image if data is image.data else replace(image, data=data)


UNCHECKED: Final = "images that could not be compared with the excluded ones: missing from SOURCE, or changed there"
_COLUMNS: Final = ("image_id", "key", "status", "sha256", "phash", "picture_sha256", "picture_phash")


class ExcludedImages:
    """Finds the images of a shard that rules exclude, beyond the rules that the run was planned with."""

    def __init__(self, planned: PlannedImages, header: RunHeader, exclusions: Exclusions) -> None:
        self._planned = planned
        self._rules = beyond(exclusions, planned_rules(header))
        self._matcher = ExclusionMatcher(self._rules)
        self._wanted = set[int]()

    def __bool__(self) -> bool:
        """Return whether there is a rule that the run does not have."""
        return bool(self._rules)

    def unmatched(self, counts: Mapping[str, int], given: Exclusions) -> list[str]:
        """Return what of the rules `given` no image of the shards was: a sentence for names that `only` has in vain.

        Another for each name of the other rules that `counts`, by the phrases of `of_shard`, lack.
        """
        only = [(rule, rule.num_values - len(self._wanted)) for rule in self._rules if rule.kind == "only"]
        absent = [f"{rule.option}: {rule.absent_phrase(number, 'the run')}." for rule, number in only if number]
        found = {rule.title for rule in self._rules if counts.get(rule.dropped_phrase)}
        others = [rule for rule in self._rules if rule in given and rule.kind != "only"]
        names = dict.fromkeys(rule.title for rule in others if rule.title not in found)
        return absent + [f"{name} excludes no image, or none that another list does not exclude." for name in names]

    def of_shard(self, shard: CommittedShard) -> dict[str, str]:
        """Return the phrase of the reason for each image that is left out, by image id.

        A rule by perceptual hash decodes every image without one. What cannot be compared is left out too. ConfigError
        if a part of the run, or SOURCE as a whole, is missing.
        """
        if not self:
            return {}
        table, found = shard.table(IMAGES, _COLUMNS), dict[str, str]()
        prove_hashes(table, where=str(shard))
        for row in (rows := table.to_pylist()):
            of_picture = row["picture_sha256"]
            rule = self._matcher.of_recorded(row["key"], row["sha256"], self._wanted, picture_sha256=of_picture)
            if rule is not None:
                found[row["image_id"]] = rule.dropped_phrase
        if not self._matcher.has_hashes:
            return found
        rest = [row for row in rows if row["image_id"] not in found and row["status"] != STATUS_QUARANTINED]
        hashes = self._planned.phashes(shard, rest)
        unchecked = (row["image_id"] for row in rest if hashes[row["key"]] is None)
        for row in (row for row in rest if hashes[row["key"]] is not None):
            marks = row["sha256"], hashes[row["key"]], row["picture_sha256"], row["picture_phash"]
            if (number := self._matcher.by_content(*marks)) is not None:
                found[row["image_id"]] = self._rules[number].dropped_phrase
        return found | dict.fromkeys(sorted(unchecked), UNCHECKED)
