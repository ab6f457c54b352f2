"""A dataset's sample of one mask: names, shapes and dtypes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypedDict, get_args

from torch import Tensor

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.lone_masks import LoneMasks
from pseudoris.store.sources.exclusions import Exclusions
from pseudoris.training.dataset.expression_filter import ExpressionFilter
from pseudoris.training.exclusions import as_exclusions

Part = Literal["image", "mask", "box", "text", "scores"]
PARTS: Final[tuple[Part, ...]] = get_args(Part)
Draw = Literal["distinct", "pseudo_ris", "weighted"]
DRAWS: Final[tuple[Draw, ...]] = get_args(Draw)
# The numbers of an expression, in the order of its table.
SCORES: Final = ("uniqueness", "correctness", "distinctiveness", "log_prob", "weight")


class RisSample(TypedDict, total=False):
    """One mask of one image and K expressions that refer to it; H x W is the upright image.

    A key is present if its part was requested; `image_id` and `mask_id` always are. All values except texts are
    tensors, so that `torch.utils.data.default_collate` stacks samples that a transform has brought to one size.

    Attributes:
        image_id: 16 hex digits.
        mask_id: Image id and index of the mask.
        key: Key of the image, percent-encoded, relative to SOURCE. Part `image`.
        image: (3, H, W) uint8, RGB in [0, 255], turned upright by EXIF. Part `image`.
        mask: (H, W) bool. Part `mask`.
        box_xyxy_px: (4,) int64, tight box x0, y0, x1, y1 in pixels of the upright image, x1 and y1 exclusive. Part
            `box`.
        expressions: K texts. Part `text`.
        sources: Who wrote each, `model`, `human`, `composer` or `recipe`; `reworded` if it is not the text of its row.
            Part `text`.
        row_texts: K texts, of the row that each expression came from. Part `text`, only with `SampleSpec.rewording`.
        scores: By name of `SCORES`, (K,) float32 each; nan where the table has null (a lone mask's, a human's).
            Part `scores`.
    """

    image_id: str
    mask_id: str
    key: str
    image: Tensor
    mask: Tensor
    box_xyxy_px: Tensor
    expressions: list[str]
    sources: list[str]
    row_texts: list[str]
    scores: dict[str, Tensor]


Transform = Callable[[RisSample], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSpec:
    """Which samples a run gives, and their contents.

    A sample is a mask with at least one expression after `where`. Expressions for several masks, or for none, are
    skipped.

    Attributes:
        parts: Some of `PARTS`; others are not read. `("text",)` reads only a few columns of the expressions.
        where: Which expressions.
        draw: How expressions are drawn. `distinct`: each text of a mask that passes `where` is equally likely, without
            replacement. `pseudo_ris`: as the loader of the Pseudo-RIS authors draws (method page, section 5), uniformly
            over the captioner's draws that pass, with replacement, so that a text that was drawn k times has weight k;
            over all draws of a mask if none passes `tau` (or was kept); over the better half by correctness of a mask
            alone in its image. What else `where` excludes is never drawn. `weighted`: in proportion to the column
            `weight`, with replacement, over the texts that pass `where`.
        expressions_per_mask: K, the number of expressions drawn in an epoch. If `distinct` finds fewer, they are
            repeated, so that K is the same for all. None gives all that can be drawn, in the tables' order.
        rewording: Whether each drawn expression is said in one of the forms that mean the same
            (`pseudoris.training.dataset.rewording.forms_of`); a human's stay as they are. `where` judges the rows.
        seed: Seed of draws and shuffles.
        on_bad_image: If an image is missing from SOURCE or differs from the annotated one: `raise`, or `skip` its
            masks, which `num_skipped` counts.
        source: Where the images are now, if they moved, or a mapping from the old to the new place; their sha256 is
            checked either way.
        exclude: Images to leave out, as `pseudoris annotate --exclude`: a path, or several, or what `read_exclusions`
            returned. By name, COCO id and sha256; perceptual hashes only if the run was planned with the same.
    """

    parts: tuple[Part, ...] = PARTS
    where: ExpressionFilter = field(default_factory=ExpressionFilter)
    draw: Draw = "distinct"
    expressions_per_mask: int | None = 1
    rewording: bool = False
    seed: int = 0
    on_bad_image: Literal["raise", "skip"] = "raise"
    source: str | Mapping[str, str] | None = None
    exclude: Exclusions | str | Sequence[str] = ()

    def __post_init__(self) -> None:
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown or not self.parts:
            raise ConfigError(f"parts {self.parts!r}: give some of {', '.join(PARTS)}")
        if self.draw not in DRAWS:
            raise ConfigError(f"draw is {self.draw!r}: give one of {', '.join(DRAWS)}")
        if self.expressions_per_mask is not None and self.expressions_per_mask < 1:
            raise ConfigError(f"expressions_per_mask is {self.expressions_per_mask}: give 1 or more, or None for all")
        if self.on_bad_image not in ("raise", "skip"):
            raise ConfigError(f"on_bad_image is {self.on_bad_image!r}: give 'raise' or 'skip'")
        # Read once: copies of the spec, in loader workers too, hold the rules.
        object.__setattr__(self, "exclude", as_exclusions(self.exclude))

    @property
    def exclusions(self) -> Exclusions:
        """The rules of `exclude`."""
        return as_exclusions(self.exclude)

    @property
    def has_expressions(self) -> bool:
        """Whether a sample contains anything of its expressions."""
        return "text" in self.parts or "scores" in self.parts

    @property
    def lone_masks(self) -> LoneMasks:
        """What may be drawn of a mask alone in its image."""
        return self.where.lone or ("better_half" if self.draw == "pseudo_ris" else "keep")

    @property
    def is_judged_by_mask(self) -> bool:
        """Whether all candidates of a mask decide together what may be drawn, so that all of them are read."""
        return self.draw != "distinct" or self.lone_masks == "better_half"

    def as_json(self) -> dict[str, Any]:
        """Return what decides the draws, as JSON; newer settings only if set, as in states of earlier versions."""
        described: dict[str, Any] = {
            "seed": self.seed,
            "expressions_per_mask": self.expressions_per_mask,
            "where": {**self.where.as_json(), "lone": self.lone_masks},
        }
        if self.exclusions:
            described["exclude"] = sorted(rule.identity for rule in self.exclusions.rules)
        if self.rewording:
            described["rewording"] = True
        return described if self.draw == "distinct" else {**described, "draw": self.draw}


def collate_lists(samples: Sequence[RisSample]) -> dict[str, list[Any]]:
    """Return a batch as one list a key, for samples whose images differ in size; nothing is padded or stacked."""
    return {name: [sample[name] for sample in samples] for name in samples[0]}  # type: ignore[literal-required]
