"""Names, shapes, dtypes of a sample, and which expressions it is made of. Used by users and most modules here.

Parquet evaluates the conditions before anything else is read. The forms of `as_json` must not change: saved trainings
hold them. Users depend on the fields of `SampleSpec` and `ExpressionFilter`, and on the keys of a sample.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Real
from pathlib import Path
from typing import Any, Final, Literal, TypedDict, get_args

import pyarrow as pa
import pyarrow.compute as pc

from pseudoris.interchange.dataset.torch_names import Tensor
from pseudoris.interchange.exclusions import as_exclusions
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.extras import require_extra
from pseudoris.schemas.keep_rule import LONE_MASKS, OPTIONAL_COLUMNS, LoneMasks
from pseudoris.schemas.shard import SOURCE_MODEL, SOURCE_RECIPE, SOURCES
from pseudoris.schemas.tables import EXPRESSIONS, MASKS, SCHEMAS
from pseudoris.store.exclusion_rules import Exclusions
from pseudoris.store.tables.parts import RowFilter

# Both bounds are inclusive. None means that there is no bound.
Bounds = tuple[float | None, float | None]

# These scores may have bounds. `top_k` and `top_p` may not: they say how a text was drawn, not how good it is.
EXPRESSION_NUMBERS: Final = (
    *("uniqueness", "correctness", "distinctiveness", "log_prob", "weight", "count"),
    *OPTIONAL_COLUMNS,
)
MASK_NUMBERS: Final = ("predicted_iou", "stability_score", "area_px")

DECODERS: Final = ("beam", "top_k", "top_p")
_SOURCE: Final = pc.field("source")
# A condition on rows, None if every row passes, and the columns that it reads.
_Condition = tuple[pc.Expression | None, *tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpressionFilter:
    """Keeps an expression that passes every condition; by default those that the run kept.

    Attributes:
        tau: None keeps what the run kept (column `kept`). A number moves the threshold instead: kept are expressions
            with distinctiveness > tau, whatever the run decided; `-math.inf` keeps all that have the score. Human and
            composed expressions have no score and pass. A recipe's expressions pass if the run kept them. `lone`
            decides about lone masks.
        is_kept_only: Only where `tau` is None: False keeps every candidate.
        lone: A mask that is alone in its image has no distinctiveness (null). `keep` lets its expressions pass `tau`,
            as the method does; `drop` leaves them out, with and without a `tau`; `better_half` lets half of its draws
            pass, those with the highest correctness (`pseudoris.schemas.keep_rule`). None is the rule of the draw:
            `SampleSpec.lone_masks`.
        bounds: By column of `EXPRESSION_NUMBERS` or `MASK_NUMBERS`, (lowest, highest), both inclusive, None for open.
            A null does not pass a bound.
        words: Number of words, separated by white space.
        characters: Number of Unicode characters.
        max_clip_tokens: The most tokens of CLIP, start and end included, as CRIS counts its 17. Judged after reading:
            The Parquet tables have no tokens.
        decoders: Allowed decoders of the first draw, from `DECODERS`; None allows any. Texts that were not drawn have
            no decoder.
        sources: Some of `pseudoris.schemas.shard.SOURCES`; None for any.
    """

    tau: float | None = None
    is_kept_only: bool = True
    lone: LoneMasks | None = None
    bounds: Mapping[str, Bounds] = field(default_factory=dict)
    words: Bounds = (None, None)
    characters: Bounds = (None, None)
    max_clip_tokens: int | None = None
    decoders: frozenset[str] | None = None
    sources: frozenset[str] | None = None

    def __post_init__(self) -> None:
        known = (*EXPRESSION_NUMBERS, *MASK_NUMBERS)
        both = {**self.bounds, "words": self.words, "characters": self.characters, "tau": (self.tau, None)}
        for name, given in both.items():
            if name in self.bounds and name not in known:
                raise ConfigError(f"bounds: there is no score {name!r}. The scores are {', '.join(known)}.")
            pair = given if isinstance(given, tuple | list) and len(given) == 2 else ("", "")
            if not all(each is None or (isinstance(each, Real) and not isinstance(each, bool)) for each in pair):
                shown = self.tau if name == "tau" else given
                form = "a number, or None" if name == "tau" else "(lowest, highest), numbers or None"
                raise ConfigError(f"{name} is {shown!r}. Give {form}.")
            low, high = pair
            if low is not None and high is not None and low > high:
                raise ConfigError(f"{name}: the bounds ({low}, {high}) are in the wrong order. Give (lowest, highest).")
        if self.lone is not None and self.lone not in LONE_MASKS:
            raise ConfigError(f"lone is {self.lone!r}. Give one of {', '.join(LONE_MASKS)}, or None.")
        if self.max_clip_tokens is not None and self.max_clip_tokens < 3:
            raise ConfigError(f"max_clip_tokens is {self.max_clip_tokens}. Give 3 or more: start, end and one word.")
        for name, words in (("decoders", DECODERS), ("sources", SOURCES)):
            # The dataclass is frozen, so `object.__setattr__` replaces the given collection by the checked set.
            object.__setattr__(self, name, _chosen(name, getattr(self, name), words))

    def expression_rows(self, split: str | None = None) -> RowFilter | None:
        """Return the conditions on the expressions table, of a `split` alone; None if every row passes."""
        distinctiveness = pc.field("distinctiveness")
        conditions: list[_Condition] = []
        if self.tau is not None:
            # `is_null` makes the condition never null. Otherwise Arrow could not skip row groups with a null value.
            passes = (distinctiveness > self.tau) | distinctiveness.is_null()
            conditions.append((passes & _is_no_wrong_label(), "distinctiveness", "kept", "source"))
        elif self.is_kept_only:
            conditions.append((pc.field("kept"), "kept"))
        if self.lone == "drop":
            conditions.append((distinctiveness.is_valid() | (_SOURCE != SOURCE_MODEL), "distinctiveness", "source"))
        return self._rows(conditions, split)

    def candidate_rows(self, split: str | None = None) -> RowFilter | None:
        """Return the conditions without `tau`, `kept` and `lone`, which are judged after reading."""
        return self._rows([(_is_no_wrong_label(), "source", "kept")], split)

    def _rows(self, conditions: list[_Condition], split: str | None) -> RowFilter | None:
        """Return conditions, and those that do not look at scores."""
        others: list[_Condition] = [
            *self._bounds_of(EXPRESSIONS),
            (_within(pc.list_value_length(pc.utf8_split_whitespace(pc.field("text"))), self.words), "text"),
            (_within(pc.utf8_length(pc.field("text")), self.characters), "text"),
            (None if self.decoders is None else pc.field("decoder").isin(sorted(self.decoders)), "decoder"),
            (None if self.sources is None else _SOURCE.isin(sorted(self.sources)), "source"),
            (None if split is None else pc.field("split") == split, "split"),
        ]
        return _row_filter([*conditions, *others])

    def mask_rows(self) -> RowFilter | None:
        """Return the conditions on the masks table; None if every row passes."""
        return _row_filter(self._bounds_of(MASKS))

    def fits_tokens(self, texts: pa.ChunkedArray) -> pa.Array | None:
        """Return which texts have few enough CLIP tokens, (E,) bool; None without such a bound."""
        if self.max_clip_tokens is None:
            return None
        require_extra("run", "`max_clip_tokens`")
        # The import is here, because it reads a vocabulary of a megabyte that most datasets do not need.
        from pseudoris.primitives.clip_tokenizer import num_clip_tokens

        return pa.array([num_clip_tokens(text) <= self.max_clip_tokens for text in texts.to_pylist()], pa.bool_())

    def as_json(self) -> dict[str, Any]:
        """Return the conditions as JSON; equal ones in equal form."""
        described = {each.name: getattr(self, each.name) for each in fields(self)}
        for name, value in described.items():
            if isinstance(value, frozenset):
                described[name] = sorted(value)
            elif isinstance(value, tuple):
                described[name] = list(value)
        described["bounds"] = {name: list(self.bounds[name]) for name in sorted(self.bounds)}
        return described

    def _bounds_of(self, table: str) -> list[_Condition]:
        bounds = ((name, each) for name, each in self.bounds.items() if name in SCHEMAS[table].names)
        return [(_within(pc.field(name), each), name) for name, each in bounds]


def _chosen(name: str, chosen: Collection[str] | None, known: Sequence[str]) -> frozenset[str] | None:
    """Return the chosen words as a set; refuse an unknown word, which would silently keep nothing."""
    if chosen is None:
        return None
    if isinstance(chosen, str):
        raise ConfigError(f"{name} is the text {chosen!r}. Give a set, {{{chosen!r}}}.")
    if not chosen:
        raise ConfigError(f"{name} is empty, so nothing passes. Give some of {', '.join(known)}, or None for all.")
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        raise ConfigError(f"{name}: there is no {unknown[0]!r}. Choose from {', '.join(known)}.")
    return frozenset(chosen)


def _is_no_wrong_label() -> pc.Expression:
    # False for a row of a PPT recipe that is not kept: its mask is not the object of its text. Made at its use, because
    # pyarrow loads pandas with the first constant that it compares.
    return (_SOURCE != SOURCE_RECIPE) | pc.field("kept")


def _within(value: pc.Expression, bounds: Bounds) -> pc.Expression | None:
    low, high = bounds
    conditions = [*([] if low is None else [value >= low]), *([] if high is None else [value <= high])]
    return functools.reduce(operator.and_, conditions) if conditions else None


def _row_filter(conditions: Sequence[_Condition]) -> RowFilter | None:
    given = [(condition, columns) for condition, *columns in conditions if condition is not None]
    columns = tuple(dict.fromkeys(name for _, names in given for name in names))
    return RowFilter(functools.reduce(operator.and_, (each for each, _ in given)), columns) if given else None


Part = Literal["image", "mask", "box", "text", "scores"]
PARTS: Final[tuple[Part, ...]] = get_args(Part)
Draw = Literal["distinct", "pseudo_ris", "weighted"]
DRAWS: Final[tuple[Draw, ...]] = get_args(Draw)
# A sample has these numbers of an expression, in the order of the table.
SCORES: Final = ("uniqueness", "correctness", "distinctiveness", "log_prob", "weight")


class RisSample(TypedDict, total=False):
    """One mask of one image and K expressions that refer to it (or several masks, or none); H x W is the upright image.

    A key is present if its part was requested; `image_id` and `mask_id` always are. All values except texts are
    tensors, so that `torch.utils.data.default_collate` stacks samples that a transform has brought to one size; where
    torch is not installed, they are numpy arrays of the same shapes and dtypes.

    Attributes:
        image_id: 16 hex digits.
        mask_id: Image id and index of the mask. Of several masks, their ids with `+` between them; of none, the image
            id and `none-0`, `none-1`, ….
        key: Key of the image, percent-encoded, relative to SOURCE. Part `image`.
        image: (3, H, W) uint8, RGB in [0, 255], turned upright by EXIF. Part `image`.
        num_masks: How many masks the expressions refer to: 0, 1 or more. Only with `SampleSpec.groups` or `none`.
        mask: (H, W) bool, the union if there are several, all False if there is none. Part `mask`.
        box_xyxy_px: (4,) int64, tight box x0, y0, x1, y1 in pixels of the upright image, x1 and y1 exclusive; of
            several masks the one around all, of none four zeros. Part `box`.
        expressions: K texts. Part `text`.
        sources: Who wrote each, `model`, `human`, `composer` or `recipe`; `reworded` if it is not the text of its row.
            Part `text`.
        row_texts: K texts, of the row that each expression came from. Part `text`, only with `SampleSpec.rewording`.
        scores: By name of `SCORES`, (K,) float32 each; nan where the table has null (a lone mask's, a human's).
            Part `scores`.
    """

    image_id: str
    mask_id: str
    num_masks: int
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
    skipped unless `groups` and `none` ask for them; a run without such expressions is then refused.

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
            (`pseudoris.interchange.dataset.rewording.forms_of`); a human's stay as they are. `where` judges the rows.
        groups: Whether several masks that an expression refers to together are a sample too, with their union.
        none: The share of samples, in [0, 1), that are expressions of no mask in their image, with an empty mask. Each
            shard has it for itself, as closely as whole samples allow, if it has such an expression. Their number is
            the same in every epoch. Each takes part of its image's expressions, so that an epoch repeats none before
            all that its images have are used. Bounds on masks do not apply to them.
        split: Of which split the expressions are; `all` for any. None takes `train` of a run with splits, by `pseudoris
            combine --hold-out` or as an import, and all of any other.
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
    groups: bool = False
    none: float = 0.0
    split: str | None = None
    seed: int = 0
    on_bad_image: Literal["raise", "skip"] = "raise"
    source: str | Path | Mapping[str, str | Path] | None = None
    exclude: Exclusions | str | Path | Sequence[str | Path] = ()

    def __post_init__(self) -> None:
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown or not self.parts:
            raise ConfigError(f"parts {self.parts!r}: give some of {', '.join(PARTS)}")
        if self.draw not in DRAWS:
            raise ConfigError(f"draw is {self.draw!r}: give one of {', '.join(DRAWS)}")
        if self.expressions_per_mask is not None and self.expressions_per_mask < 1:
            raise ConfigError(f"expressions_per_mask is {self.expressions_per_mask}: give 1 or more, or None for all")
        if not 0 <= self.none < 1:
            raise ConfigError(f"none is {self.none}. Give a share of the samples, at least 0 and below 1.")
        if self.on_bad_image not in ("raise", "skip"):
            raise ConfigError(f"on_bad_image is {self.on_bad_image!r}: give 'raise' or 'skip'")
        # The rules are read from their files once, so that copies of the spec in loader workers hold them.
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
    def is_one_mask_each(self) -> bool:
        """Whether every sample is one mask."""
        return not self.groups and not self.none

    @property
    def lone_masks(self) -> LoneMasks:
        """What may be drawn of a mask alone in its image."""
        return self.where.lone or ("better_half" if self.draw == "pseudo_ris" else "keep")

    @property
    def is_judged_by_mask(self) -> bool:
        """Whether all candidates of a mask decide together what may be drawn, so that all of them are read."""
        return self.draw != "distinct" or self.lone_masks == "better_half"

    def as_json(self) -> dict[str, Any]:
        """Return what decides the draws, as JSON."""
        return {
            "seed": self.seed,
            "draw": self.draw,
            "expressions_per_mask": self.expressions_per_mask,
            "where": {**self.where.as_json(), "lone": self.lone_masks},
            "exclude": sorted(rule.identity for rule in self.exclusions),
            "rewording": self.rewording,
            # A setting that is off is left out, so that states of earlier versions, which lack it, still fit.
            **({"groups": True} if self.groups else {}),
            **({"none": self.none} if self.none else {}),
            **({"split": self.split} if self.split else {}),
        }


def collate_lists(samples: Sequence[RisSample]) -> dict[str, list[Any]]:
    """Return a batch as one list a key, for samples whose images differ in size; nothing is padded or stacked."""
    return {name: [sample[name] for sample in samples] for name in samples[0]}  # type: ignore[literal-required]
