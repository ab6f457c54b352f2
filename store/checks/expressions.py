"""Checks a shard's expressions for `verify`, by source (model, human, composer, recipe), scores and confidence.

The checks work on whole columns, because a shard has hundreds of thousands of expressions. Called by `shard_parts.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pseudoris.schemas.fitted import WEIGHT_DIGITS, ConfidenceConfig, Rated, confidences, ranks
from pseudoris.schemas.keep_rule import Flags, KeepRule, keeps_lone, meets
from pseudoris.schemas.shard import SOURCE_COMPOSER, SOURCE_HUMAN, SOURCE_RECIPE, SOURCES
from pseudoris.schemas.tables import EXPRESSIONS, MASKS
from pseudoris.store.checks.content import Finding, Tables
from pseudoris.store.tables.judged_expressions import (
    SOME_TAU,
    flags_of,
    is_from,
    judged,
    keeps_composed,
    passes,
    scores_of,
    target_masks,
    weights_by,
)

# Maps the kind of an expression to the least and the most masks that it refers to. None means no upper limit.
_TARGETS: Final = {"attribute": (1, 1), "position": (1, 1), "relation": (1, 1), "group": (2, None), "none": (0, 0)}
_HEARD: Final = ("caption_score", "listener", "truth")
_CONFIDENCE: Final = ("confidence", "rank")
# Two confidences may differ by this much, because `exp` of another machine may round the last bits differently.
_TOLERANCE: Final = 1e-9
_SCORES: Final = ("uniqueness", "correctness", "distinctiveness")
_FIRST_DRAW: Final = ("crop", "decoder", "top_k", "top_p", "log_prob")
# These columns must be null for expressions that the captioner did not sample: of humans, composers and recipes.
_NULL_OF_UNDRAWN: Final = (*_FIRST_DRAW, *_SCORES, *_HEARD, *_CONFIDENCE, "rival_mask_id")
# For composed expressions two of these columns may have values, because the composer sets them.
_NULL_OF_COMPOSED: Final = tuple(name for name in _NULL_OF_UNDRAWN if name not in ("confidence", "rival_mask_id"))
_GROUNDING_SHARES: Final = ("grounding_choice", "grounding_share")
_WEIGHT_OF_UNDRAWN: Final = 1.0
# Two weights may differ by this much, because another machine may round the last digit differently.
_WEIGHT_TOLERANCE: Final = 1.5 * 10**-WEIGHT_DIGITS


def _composed_problems(table: pa.Table, is_composed: Flags) -> Iterator[Finding]:
    """Check kind, number of targets and confidence of the composer's rows; `is_composed` is (rows,) bool."""
    kinds = table["kind"].to_pylist()
    numbers = pc.list_value_length(table["target_mask_ids"]).to_pylist()
    details = []
    for row in np.flatnonzero(is_composed).tolist():
        least, most = _TARGETS.get(kinds[row], (1, 0))
        if numbers[row] < least or (most is not None and numbers[row] > most):
            known = ", ".join(_TARGETS)
            details.append(
                f"row {row}: a composed expression of kind {kinds[row]!r} refers to {numbers[row]} masks; the "
                f"kinds {known} refer to 1, 1, 1, at least 2 and 0 masks"
            )
    yield "expression_composed", details
    has_rival = is_composed & (np.array(numbers) > 0) & np.asarray(pc.is_valid(table["rival_mask_id"]))
    yield "expression_composed", _at(has_rival, "rival_mask_id of a composed expression with a target is not null")
    confidence = pc.fill_null(table["confidence"], np.nan).to_numpy()
    is_wrong = is_composed & ~((confidence >= 0) & (confidence <= 1))
    found = (f"row {row}: the confidence {confidence[row]:g} is not in [0, 1]" for row in np.flatnonzero(is_wrong))
    yield "expression_composed", found


def confidence_problems(table: pa.Table, config: ConfidenceConfig | None) -> Iterator[Finding]:
    """Check the listener's columns of expressions, and compute confidence and rank again from the scores.

    `config` is None if the run has no confidence.
    """
    scores = scores_of(table)
    with np.errstate(invalid="ignore"):
        is_share = (scores["listener"] >= 0) & (scores["listener"] <= 1)
        is_probability = (scores["caption_score"] <= 0) & (scores["truth"] <= 0)
    is_heard = np.isfinite(scores["listener"])
    yield "expression_confidence", _at(is_heard & ~is_share, "listener is not in [0, 1]")
    is_wrong = is_heard & ~is_probability
    yield "expression_confidence", _at(is_wrong, "caption_score or truth is null or above 0, though listener is set")
    if config is None:
        # Composed expressions are skipped, because they have a confidence with and without `filtering.fitted`.
        is_composed = is_from(table, SOURCE_COMPOSER)
        for name in _CONFIDENCE:
            is_set = ~is_composed & np.isfinite(scores[name])
            yield "expression_confidence", _at(is_set, f"{name} is set without filtering.fitted")
        return
    # Only expressions of kind `attribute` are compared, because the filter gives a confidence to no other kind.
    rows = np.flatnonzero(judged(table) & np.asarray(pc.equal(table["kind"], "attribute")))
    groups = pc.list_element(table["target_mask_ids"].combine_chunks().take(rows), 0).to_pylist()
    found = {name: values[rows] for name, values in scores.items()}
    differs = np.zeros(table.num_rows, np.bool_)
    rated = Rated(groups, table["text"].combine_chunks().take(rows).to_pylist(), found)
    expected = confidences(rated, config)
    differs[rows] = ~np.isclose(found["confidence"], expected, rtol=0, atol=_TOLERANCE, equal_nan=True)
    yield "expression_confidence", _at(differs, "confidence is not what filtering.fitted gives for the scores")
    differs[rows] = ~np.isclose(found["rank"], ranks(found["confidence"], groups), equal_nan=True)
    yield "expression_confidence", _at(differs, "rank is not the position by confidence within its mask")


def expression_problems(tables: Tables, rule: KeepRule = SOME_TAU) -> Iterator[Finding]:
    """Check every expression: its masks and text, and according to its source its draws, scores and `kept`.

    A model's expression has draws and scores, and `rule` decides whether it is kept. Other sources have neither draws
    nor scores. A human's expressions are always kept; a recipe's may be kept or not.
    """
    table, masks = tables[EXPRESSIONS], tables[MASKS]
    image_of = dict(zip(masks["mask_id"].to_pylist(), masks["image_id"].to_pylist(), strict=True))
    num_masks = Counter(image_of.values())
    images, targets = table["image_id"].to_pylist(), table["target_mask_ids"].to_pylist()
    yield from _reference_problems(table, image_of)
    texts = table["text"].to_pylist()
    rows = np.flatnonzero(np.array([not text or text != text.strip().lower() for text in texts], bool))
    yield "expression_text", (f"row {row}: {texts[row]!r} is empty, not stripped or not lower case" for row in rows)
    # The key includes the image, because a no-target expression has no mask that would identify the image.
    keys = Counter((image, *target, text) for image, target, text in zip(images, targets, texts, strict=True))
    yield "expression_repeated", (f"{key} is in {n} rows" for key, n in keys.items() if n > 1)
    known = pc.is_in(table["source"], value_set=pa.array(SOURCES, pa.string()))
    yield "expression_source", _at(~np.asarray(known), f"source is none of {', '.join(SOURCES)}")
    authors = (SOURCE_HUMAN, SOURCE_COMPOSER, SOURCE_RECIPE)
    is_human, is_composed, is_recipe = (is_from(table, source) for source in authors)
    is_undrawn = is_human | is_composed | is_recipe
    yield from _draw_problems(table, is_undrawn)
    yield from _undrawn_problems(table, is_human, "human", "a human's expression")
    composed = ("composed", "a composed expression", _NULL_OF_COMPOSED)
    is_weighed = rule.pair_weight is not None
    yield from _undrawn_problems(table, is_composed, *composed, is_kept=False, is_weighed=is_weighed)
    differs = is_composed & (flags_of(table["kept"]) != keeps_composed(rule, table))
    yield "expression_composed", _at(differs, f"kept of a composed expression does not follow the rule: {rule}")
    yield from _undrawn_problems(table, is_recipe, "recipe", "a recipe's expression", is_kept=False)
    yield from _composed_problems(table, is_composed)
    if rule.pair_weight is not None:
        differs = np.abs(np.asarray(table["weight"]) - weights_by(rule.pair_weight, table)) > _WEIGHT_TOLERANCE
        unlike = "weight is not what filtering.fitted gives for the confidence"
        yield "expression_weight", _at(differs, unlike)
    # Scores are checked for one mask only, because those of groups and no-target expressions have another meaning.
    is_single = np.array([len(each) == 1 for each in targets], bool) & ~is_undrawn
    is_alone = np.array([num_masks[image] == 1 for image in images], bool)
    yield from _score_problems(table, is_single, is_alone)
    yield from confidence_problems(table, rule.confidence)
    yield from _kept_problems(table, is_alone, rule)


def _reference_problems(table: pa.Table, image_of: dict[str, str]) -> Iterator[Finding]:
    """Check that an expression refers to masks of its own image, and that its rivals are other masks of that image."""
    targets, rivals = [], []
    columns = (table[name].to_pylist() for name in ("image_id", "target_mask_ids", "rival_mask_id", "grounding_rival"))
    for row, (image, target_ids, *others) in enumerate(zip(*columns, strict=True)):
        unknown = [mask for mask in target_ids if image_of.get(mask) != image]
        if unknown:
            targets.append(f"row {row}: image {image} has no mask {unknown[0]}")
        rivals += [
            f"row {row}: the rival {rival} of {target_ids} is not another mask of image {image}"
            for rival in others
            if rival is not None and (image_of.get(rival) != image or rival in target_ids)
        ]
    yield "expression_target", targets
    yield "expression_rival", rivals


def _draw_problems(table: pa.Table, is_undrawn: Flags) -> Iterator[Finding]:
    """Check `count` against the draws, and the flat columns of drawn expressions against the first draw."""
    samples = table["samples"].combine_chunks()
    num_samples = np.asarray(pc.list_value_length(samples))
    wrong = (np.asarray(table["count"]) != num_samples) | (~is_undrawn & (num_samples < 1))
    yield "expression_count", _at(wrong, "count is not the number of draws")
    is_drawn = num_samples >= 1
    if not is_drawn.any() or (~is_drawn & ~is_undrawn).any():
        return
    first = pc.list_element(samples.filter(pa.array(is_drawn)), 0)
    for name in _FIRST_DRAW:
        drawn = pc.struct_field(first, name)
        flat = table[name].combine_chunks().filter(pa.array(is_drawn))
        is_equal = pc.fill_null(pc.equal(drawn, flat), fill_value=False)
        is_both_null = pc.and_(pc.is_null(drawn), pc.is_null(flat))
        differs = np.zeros(len(is_drawn), bool)
        differs[is_drawn] = ~np.asarray(pc.or_(is_equal, is_both_null))
        yield "expression_draw", _at(differs, f"{name} is not that of the first draw")


def _undrawn_problems(
    table: pa.Table,
    is_meant: Flags,
    name: str,
    who: str,
    null: Sequence[str] = _NULL_OF_UNDRAWN,
    *,
    is_kept: bool = True,
    is_weighed: bool = False,
) -> Iterator[Finding]:
    """Check that undrawn expressions have no draws, no scores, weight 1 unless weighed, and are kept if `is_kept`."""
    what = f"expression_{name}"
    num_samples = np.asarray(pc.list_value_length(table["samples"]))
    yield what, _at(is_meant & (num_samples > 0), f"{who} has draws")
    for column in null:
        is_set = np.asarray(pc.is_valid(table[column]))
        yield what, _at(is_meant & is_set, f"{column} of {who} is not null")
    kept, weight = np.asarray(table["kept"]), np.asarray(table["weight"])
    yield what, _at(is_meant & ~kept & is_kept, f"{who} is not kept")
    is_wrong = is_meant & (weight != _WEIGHT_OF_UNDRAWN) & (not is_weighed)
    yield what, _at(is_wrong, f"{who} has a weight other than 1")


def _score_problems(table: pa.Table, is_single: Flags, is_alone: Flags) -> Iterator[Finding]:
    for name in (*_SCORES, *_HEARD, "confidence", "log_prob", "weight"):
        values = table[name]
        is_bad = np.asarray(pc.fill_null(pc.invert(pc.is_finite(values)), fill_value=False))
        yield "expression_score", _at(is_bad, f"{name} is not finite")
    for name in _GROUNDING_SHARES:
        is_inside = pc.and_(pc.greater_equal(table[name], 0), pc.less_equal(table[name], 1))
        is_outside = ~np.asarray(pc.fill_null(is_inside, fill_value=True))
        yield "expression_score", _at(is_outside, f"{name} is not in [0, 1]")
    for name in ("uniqueness", "distinctiveness", "rival_mask_id"):
        is_null = np.asarray(pc.is_null(table[name]))
        wrong = is_single & (is_null != is_alone)
        yield "expression_score", _at(wrong, f"{name} must be null exactly if the mask is the only one of its image")


def _kept_problems(table: pa.Table, is_alone: Flags, rule: KeepRule) -> Iterator[Finding]:
    """Check `kept` against the rule. If the rule has no tau, there must be one tau that explains `kept`."""
    kept = flags_of(table["kept"])
    is_judged = judged(table)
    scores = scores_of(table)
    if rule.tau is not None:
        differs = is_judged & (kept != passes(rule, table))
        yield "expression_kept", _at(differs, f"kept does not follow the rule: {rule}")
        return
    is_met = meets(rule.conditions, scores, table.num_rows)
    unmet = f"kept, but does not meet: {' and '.join(map(str, rule.conditions))}"
    yield "expression_kept", _at(is_judged & kept & ~is_met, unmet)
    alone = np.flatnonzero(is_judged & is_alone)
    of_alone = {name: values[alone] for name, values in scores.items()}
    expected = keeps_lone(rule.lone_masks, of_alone, target_masks(table, alone))
    is_wrong = np.zeros(table.num_rows, np.bool_)
    is_wrong[alone] = is_met[alone] & (kept[alone] != expected)
    why = "not kept, although" if rule.lone_masks == "keep" else f"kept is not {rule.lone_masks!r}, as"
    yield "expression_kept", _at(is_wrong, f"{why} its mask is alone in the image")
    distinctiveness = scores["distinctiveness"]
    is_scored = is_judged & is_met & np.isfinite(distinctiveness)
    above, below = distinctiveness[is_scored & kept], distinctiveness[is_scored & ~kept]
    if above.size and below.size and above.min() <= below.max():
        detail = f"an expression of distinctiveness {below.max():.6g} is not kept, but one of {above.min():.6g} is"
        yield "expression_kept", [detail]


def _at(is_wrong: Flags, rule: str) -> Iterator[str]:
    return (f"row {row}: {rule}" for row in np.flatnonzero(is_wrong))
