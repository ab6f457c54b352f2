"""Kind, number of targets and confidence of composed rows, and of no others.

What `verify` holds a listener's columns to.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from pseudoris.schemas.fitted import (
    ConfidenceConfig,
    PairWeightConfig,
    Rated,
    WeightLine,
    confidences,
    line_weights,
    ranks,
)
from pseudoris.schemas.ids import mask_id
from pseudoris.schemas.keep_rule import KeepCondition, KeepRule
from pseudoris.schemas.tables import SCHEMAS
from pseudoris.store.checks.expressions import confidence_problems, expression_problems
from pseudoris.store.tables.judged_expressions import SOME_TAU, scores_of
from pseudoris.store.tables.shard_tables import shard_tables
from tests.store.builders import make_entries, make_shard, setting

WEIGHTS = ConfidenceConfig(bias=0.2, listener=0.5, truth=1.0, vote=0.1, consensus=0.1)
LISTENERS = (0.9, 0.4, 1.0, 0.0, 1.0, 1.0)


def heard_table(config: ConfidenceConfig | None = WEIGHTS) -> pa.Table:
    """Return expressions of two masks of an image, two each, and of a lone mask, heard and ranked."""
    shard = make_shard(make_entries(num_shards=1, per_shard=4))
    listeners = iter(LISTENERS)
    images = [
        replace(
            image,
            expressions=tuple(
                replace(each, caption_score=-2.0, listener=next(listeners), truth=-0.5) for each in image.expressions
            ),
        )
        for image in shard.images
    ]
    table = shard_tables(shard.with_images(tuple(images)), embed_images=False)["expressions"]
    if config is None:
        return table
    groups = [targets[0] for targets in table["target_mask_ids"].to_pylist()]
    confidence = confidences(Rated(groups, table["text"].to_pylist(), scores_of(table)), config)
    rows = table.to_pylist()
    for row, value, rank in zip(rows, confidence.tolist(), ranks(confidence, groups).tolist(), strict=True):
        row.update(confidence=value, rank=int(rank))
    return pa.Table.from_pylist(rows, schema=SCHEMAS["expressions"])


def problems_with(table: pa.Table, config: ConfidenceConfig | None = WEIGHTS) -> str:
    return "\n".join(f"{what}: {each}" for what, details in confidence_problems(table, config) for each in details)


def edited(row: int, **values) -> pa.Table:
    rows = heard_table().to_pylist()
    rows[row].update(values)
    return pa.Table.from_pylist(rows, schema=SCHEMAS["expressions"])


def test_what_the_filter_stage_would_have_written_is_sound():
    assert problems_with(heard_table()) == ""
    assert problems_with(heard_table(None), None) == ""
    assert [row["rank"] for row in heard_table().to_pylist()] == [1, 2, 1, 2, 1, 2]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"listener": 1.5}, r"row 1: listener is not in \[0, 1\]"),
        ({"truth": 0.5}, "row 1: caption_score or truth is null or above 0, though listener is set"),
        ({"caption_score": None}, "row 1: caption_score or truth is null or above 0, though listener is set"),
        ({"confidence": 0.3}, "row 1: confidence is not what filtering.fitted gives"),
        ({"confidence": None}, "row 1: confidence is not what filtering.fitted gives"),
        ({"listener": 0.5}, "row 1: confidence is not what filtering.fitted gives"),
        ({"rank": 1}, "row 1: rank is not the position"),
        ({"rank": None}, "row 1: rank is not the position"),
    ],
)
def test_what_does_not_follow_is_found(values, expected):
    assert re.search(f"expression_confidence: {expected}", problems_with(edited(1, **values)))


def test_what_a_human_wrote_has_none_and_is_not_ranked():
    human = {"source": "human", "listener": None, "truth": None, "caption_score": None}
    table = edited(0, **human, confidence=None, rank=None)
    found = problems_with(table)
    # The other candidate of its mask is the first now, and the only one that votes.
    assert "row 1: rank is not the position by confidence within its mask" in found
    assert "row 0" not in found
    assert math.isnan(scores_of(table)["confidence"][0])


ENTRIES = make_entries(num_shards=1, per_shard=4)
# Rows of the expressions table: 0-3 of two masks of the first image (kept, not, kept, not), 4-5 of a lone mask.
FIRST, ALONE = ENTRIES[0].image_id, ENTRIES[1].image_id


# What verify accepts of a human's expression, and of no other.
AS_HUMANS = {
    **dict.fromkeys(("crop", "decoder", "top_k", "top_p", "log_prob")),
    **dict.fromkeys(("uniqueness", "correctness", "distinctiveness", "rival_mask_id")),
    **{"source": "human", "samples": [], "count": 0, "kept": True, "weight": 1.0},
}


def found_in(edit, rule: KeepRule = SOME_TAU) -> str:
    tables = shard_tables(make_shard(ENTRIES), embed_images=False)
    rows = tables["expressions"].to_pylist()
    edit(rows)
    tables["expressions"] = pa.Table.from_pylist(rows, schema=SCHEMAS["expressions"])
    return "\n".join(f"{what}: {detail}" for what, details in expression_problems(tables, rule) for detail in details)


CORRUPTIONS = {
    "a target that is no mask": (
        setting(0, target_mask_ids=[f"{FIRST}-0009"]),
        f"expression_target: row 0: image {FIRST} has no mask {FIRST}-0009",
    ),
    "a target in another image": (setting(0, target_mask_ids=[mask_id(ALONE, 0)]), "expression_target: row 0"),
    "a rival that is no mask": (setting(1, rival_mask_id="x-0000"), "expression_rival: row 1: the rival x-0000"),
    "a rival that is the target": (setting(1, rival_mask_id=mask_id(FIRST, 0)), "expression_rival: row 1"),
    "an empty text": (setting(2, text=""), "expression_text: row 2: '' is empty"),
    "a text with blanks around it": (setting(2, text=" a circle"), "expression_text: row 2"),
    "a text in upper case": (setting(2, text="A circle"), "not lower case"),
    "one text twice": (setting(1, text="the red circle"), "expression_repeated: .*is in 2 rows"),
    "a wrong count": (setting(3, count=7), "expression_count: row 3: count is not the number of draws"),
    "no draws": (setting(3, samples=[]), "expression_count: row 3"),
    "another decoder than the first draw's": (setting(0, decoder="top_k"), "expression_draw: row 0: decoder"),
    "a k that was not drawn with": (setting(0, top_k=5), "expression_draw: row 0: top_k is not that"),
    "another log-probability": (setting(0, log_prob=-3.0), "expression_draw: row 0: log_prob"),
    "a score that is no number": (
        setting(0, correctness=math.nan),
        "expression_score: row 0: correctness is not finite",
    ),
    "an endless score": (setting(0, distinctiveness=math.inf), "distinctiveness is not finite"),
    "a score against nobody": (setting(4, uniqueness=1.0), "expression_score: row 4: uniqueness must be null exactly"),
    "no score against others": (setting(0, distinctiveness=None), "row 0: distinctiveness must be null exactly"),
    "no rival among others": (setting(0, rival_mask_id=None), "row 0: rival_mask_id must be null exactly"),
    "a lone mask's expression not kept": (
        setting(4, kept=False),
        "expression_kept: row 4: not kept, although its mask is alone",
    ),
    "kept below what is not kept": (
        setting(0, distinctiveness=0.8),
        "expression_kept: an expression of distinctiveness 0.9 is not kept, but one of 0.8 is",
    ),
    "an author whom nobody knows": (setting(0, source="robot"), "expression_source: row 0: source is none of model"),
    "a model's expression without draws or scores": (
        lambda rows: rows[4].update({**AS_HUMANS, "source": "model"}),
        "expression_count: row 4: count is not the number of draws",
    ),
    "a second opinion's share above 1": (
        setting(0, grounding_share=1.5),
        r"expression_score: row 0: grounding_share is not in \[0, 1\]",
    ),
    "a second opinion's choice that is no number": (
        setting(0, grounding_choice=math.nan),
        "grounding_choice is not in",
    ),
    "a second opinion's rival that is the target": (
        setting(1, grounding_rival=mask_id(FIRST, 0)),
        "expression_rival: row 1",
    ),
    "kept at exactly the others' score": (setting(0, distinctiveness=0.9), "expression_kept"),
    "no log-probability of a draw that has one": (setting(0, log_prob=None), "expression_draw: row 0: log_prob"),
    "a recipe's with a weight": (
        setting(1, **{**AS_HUMANS, "source": "recipe", "weight": 0.5}),
        "expression_recipe: row 1: a recipe's expression has a weight other than 1",
    ),
    "another log-probability behind a human's, which has no draws": (
        lambda rows: (rows[1].update(AS_HUMANS), rows[2].update(log_prob=-1.0)),
        "expression_draw: row 2: log_prob",
    ),
}
A_GROUP = {"target_mask_ids": [mask_id(FIRST, 0), mask_id(FIRST, 1)], "kind": "group", "text": "all"}
SOUND = {
    "as it is written": lambda rows: None,
    "a second opinion": setting(0, grounding_choice=0.0, grounding_share=0.25, grounding_rival=mask_id(FIRST, 1)),
    "a draw of no probability": lambda rows: (
        rows[0].update(log_prob=None),
        rows[0]["samples"][0].update(log_prob=None),
    ),
    "a group": setting(3, **A_GROUP, rival_mask_id=None, distinctiveness=None),
    "humans'": lambda rows: [row.update(AS_HUMANS) for row in rows],
    "a recipe's, kept or not": lambda rows: [
        row.update(AS_HUMANS, source="recipe", kept=at % 2 == 0) for at, row in enumerate(rows)
    ],
}


@pytest.mark.parametrize("edit", SOUND.values(), ids=SOUND)
def test_sound_expressions_have_no_problem(edit):
    assert found_in(edit) == ""


@pytest.mark.parametrize(("edit", "expected"), CORRUPTIONS.values(), ids=CORRUPTIONS.keys())
def test_every_corruption_is_found_and_named(edit, expected):
    assert re.search(expected, found_in(edit))


DRAWN = [{"crop": "masked", "decoder": "beam", "log_prob": -1.0, "others": "none", "num_others": 0, "other_masks": []}]


DRAWN_ALONE = {
    **{"crop": "masked", "decoder": "masked", "top_k": 5, "rival_mask_id": mask_id(FIRST, 1)},
    **dict.fromkeys(("top_p", "log_prob", "uniqueness", "correctness", "distinctiveness"), 0.5),
}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"samples": DRAWN, "count": 1}, "expression_human: row 1: a human's expression has draws"),
        ({"count": 1}, "expression_count: row 1"),
        *(({name: value}, f"{name} of a human's expression is not null") for name, value in DRAWN_ALONE.items()),
        ({"kept": False}, "expression_human: row 1: a human's expression is not kept"),
        ({"weight": 0.5}, "expression_human: row 1: a human's expression has a weight other than 1"),
        ({"weight": math.nan}, "weight is not finite"),
        ({"text": "A Circle"}, "expression_text: row 1"),
    ],
)
def test_a_humans_expression_is_accepted_in_no_other_form(values, expected):
    assert re.search(expected, found_in(setting(1, **{**AS_HUMANS, **values})))


# As the builders have it: 1.1 is kept, 0.9 is not, correctness is 0.5.
def rule(tau: float | None, *conditions: str) -> KeepRule:
    return KeepRule(tau, tuple(KeepCondition.model_validate(text) for text in conditions))


AS_WRITTEN, NOT_FOLLOWED = SOUND["as it is written"], "kept does not follow the rule"
OF_CORRECTNESS = "correctness > 0.4"


@pytest.mark.parametrize(
    ("edit", "rule", "expected"),
    [
        (AS_WRITTEN, rule(1.0), ""),
        (AS_WRITTEN, rule(0.9, "correctness >= 0.5", "count > 1"), ""),
        # Some other tau explains what is kept; this one does not.
        (AS_WRITTEN, rule(1.1), f"row 0: {NOT_FOLLOWED}: distinctiveness > 1.1"),
        (AS_WRITTEN, rule(0.8), f"row 1: {NOT_FOLLOWED}: distinctiveness > 0.8"),
        (AS_WRITTEN, rule(1.0, "correctness > 0.5"), f"row 0: {NOT_FOLLOWED}"),
        # A lone mask passes but for scores that it has.
        (setting(4, kept=False), rule(1.0), f"row 4: {NOT_FOLLOWED}"),
        (setting(4, kept=False, correctness=0.3), rule(1.0, OF_CORRECTNESS), ""),
        (setting(4, correctness=0.3), rule(1.0, OF_CORRECTNESS), f"row 4: {NOT_FOLLOWED}"),
        # Where tau is not known, conditions are held, and some tau explains the rest.
        (AS_WRITTEN, rule(None, OF_CORRECTNESS), ""),
        (setting(0, correctness=0.3), rule(None, OF_CORRECTNESS), "row 0: kept, but does not meet: correctness > 0.4"),
        # What the condition drops says nothing of tau.
        (setting(0, correctness=0.3, kept=False, distinctiveness=2.0), rule(None, OF_CORRECTNESS), ""),
        (setting(4, kept=False), rule(None, OF_CORRECTNESS), "not kept, although its mask is alone"),
        (setting(4, kept=False, correctness=0.3), rule(None, OF_CORRECTNESS), ""),
    ],
)
def test_a_rule_is_held_to_the_letter(edit, rule, expected):
    found = found_in(edit, rule)
    assert expected in found if expected else found == ""


@pytest.mark.parametrize("tau", [None, 1.0])
def test_of_a_lone_mask_the_runs_rule_for_such_masks_is_held(tau):
    dropping = replace(rule(tau), lone_masks="drop")
    assert "row 4: kept" in found_in(lambda rows: None, dropping)
    assert "row 4" not in found_in(setting(4, kept=False), dropping)


AS_COMPOSED = {
    **AS_HUMANS,
    **{"source": "composer", "kind": "position", "text": "the leftmost circle", "confidence": 0.9},
}


@pytest.mark.parametrize(("kind", "num"), {"attribute": 1, "position": 1, "relation": 1, "group": 2, "none": 0}.items())
def test_composed_expressions_are_sound_without_draws_and_whatever_the_rule(kind, num):
    composed = {**AS_COMPOSED, "kind": kind, "target_mask_ids": [mask_id(FIRST, n) for n in range(num)]}
    assert found_in(setting(1, **composed)) == ""
    assert "row 1" not in found_in(setting(1, **composed), KeepRule(tau=99.0))


def test_of_composed_expressions_a_near_absence_alone_names_a_rival():
    rival = {**AS_COMPOSED, "rival_mask_id": mask_id(FIRST, 1)}
    assert found_in(setting(1, **{**rival, "kind": "none", "target_mask_ids": []})) == ""
    found = found_in(setting(1, **{**rival, "target_mask_ids": [mask_id(FIRST, 0)]}))
    assert found == "expression_composed: row 1: rival_mask_id of a composed expression with a target is not null"


@pytest.mark.parametrize(
    "values",
    [
        *({name: value} for name, value in {"kept": False, "correctness": 0.5, "rank": 1, "count": 1}.items()),
        *({"confidence": 1.5}, {"confidence": None}, {"weight": 0.5}, {"kind": "group"}, {"kind": "none"}),
        {"kind": "attribute", "target_mask_ids": []},
        {"target_mask_ids": []},
        {"kind": "relation", "target_mask_ids": [mask_id(FIRST, 0), mask_id(FIRST, 1)]},
    ],
)
def test_a_composed_expression_is_accepted_in_no_other_form(values):
    found = found_in(setting(1, **{**AS_COMPOSED, "target_mask_ids": [mask_id(FIRST, 1)], **values}))
    assert re.search("expression_(composed|count): row 1", found)


LINES = PairWeightConfig(drawn=WeightLine(bias=1.0, slope=0.5), composed=WeightLine(bias=-1.0))
WEIGHING = replace(rule(None), pair_weight=LINES)


@pytest.mark.parametrize("line", [0, 1])
def test_a_weight_is_what_its_line_gives_for_the_confidence(line):
    fields = ({"confidence": None}, {**AS_COMPOSED, "confidence": 0.9})[line]
    due = (1.0, float(line_weights(LINES.composed, np.array([0.9]))[0]))[line]
    assert "expression_weight: row 1" not in found_in(setting(1, **{**fields, "weight": due}), WEIGHING)
    found = found_in(setting(1, **{**fields, "weight": due - 0.01}), WEIGHING)
    assert "expression_weight: row 1: weight is not what filtering.fitted gives for the confidence" in found
