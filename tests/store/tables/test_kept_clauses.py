"""What a run says that it keeps is what its rule keeps: each clause is evaluated on rows, and decides as the rule."""

from __future__ import annotations

from functools import cache

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.keep_rule import COMPOSED_KINDS, LONE_MASKS, ONE_MASK, SCORE_COLUMNS, parse_conditions
from pseudoris.schemas.run_records import Identity, RunHeader
from pseudoris.schemas.tables import EXPRESSIONS_SCHEMA
from pseudoris.store.sessions.refiltered_run import refiltered
from pseudoris.store.tables.judged_expressions import stated_rule
from pseudoris.store.tables.kept_clauses import REFERENT, kept_clauses
from tests.builders.clauses import evaluated

COMPARE = (">", ">=", "<", "<=")

load = cache(load_config)


def header_of(preset: str, *assignments: str, config: RunConfig | None = None, **fields) -> RunHeader:
    """Return a header that holds what the clauses need."""
    fields = {"origin": "annotate", "combined": (), "parent": None, "name": ""} | fields
    identity = Identity(method={}, weights={}, device_kind="cpu", versions={})
    config = config or load(preset, None, assignments)
    return RunHeader.model_construct(config=config, identity=identity, **fields)


SCORE = st.one_of(st.floats(-2, 2), st.sampled_from([0.5, 1.0, 1.0000001, 0.94, 3.0]))
CONDITION = st.builds(
    "{} {} {}".format,
    st.sampled_from([*SCORE_COLUMNS, *COMPOSED_KINDS, *["uniqueness"] * 6]),
    st.sampled_from(COMPARE),
    SCORE,
)
NUMBERS = ("count", "rank")


@st.composite
def rows_of(draw, *, is_own: bool):
    """Return rows of the table of expressions as a run may hold them: without a score only where it may lack one."""
    rows = []
    for place in range(draw(st.integers(0, 8))):
        source = draw(st.sampled_from(["model", "model", "composer", *([] if is_own else ["several"])]))
        kind = draw(st.sampled_from(COMPOSED_KINDS)) if source == "composer" else "attribute"
        num_targets = 1 if source == "model" or kind in ONE_MASK else 0 if kind == "none" else 2
        is_lone = source == "model" and draw(st.booleans())
        row = dict.fromkeys(EXPRESSIONS_SCHEMA.names) | {"samples": [], "count": 0, "kept": False, "weight": 1.0}
        row |= {"image_id": "0" * 16, "text": f"text {place}", "kind": kind, "head_noun": "", "decoder": "", "crop": ""}
        lone = f"lone-{draw(st.integers(0, 1))}"
        row["target_mask_ids"] = [lone] if is_lone else [f"mask-{at}" for at in range(num_targets)]
        row["source"] = "model" if source == "several" else source
        if source == "composer":
            # Below `min_first` none is composed.
            row["confidence"] = draw(st.floats(0.7, 1))
        elif source == "several":
            row |= {"target_mask_ids": ["mask-0", "mask-1"], "kept": draw(st.booleans())}
        else:
            for name in SCORE_COLUMNS:
                is_compared = name in ("uniqueness", "distinctiveness")
                may_lack = (is_compared and is_lone) or (not is_own and not is_compared and name != "count")
                lacks = is_lone if is_compared else may_lack and draw(st.booleans())
                value = draw(st.integers(1, 4)) if name in NUMBERS else draw(SCORE)
                row[name] = None if lacks else value
        rows.append(row)
    return rows


@given(data=st.data(), is_own=st.booleans(), lone=st.sampled_from(LONE_MASKS), tau=st.floats(0, 2))
@settings(max_examples=300, deadline=None)
def test_clauses_keep_what_the_rule_keeps(data, is_own, lone, tau):
    keep = parse_conditions(data.draw(st.lists(CONDITION, max_size=4)))
    config = load("tiny-composed", None, ())
    changes = {
        "filtering": config.filtering.model_copy(update={"tau": tau, "keep": keep, "lone_masks": lone}),
        "captions": config.captions.model_copy(update={} if is_own else {"engine": "mine"}),
        "composing": config.composing.model_copy(update={"kinds": tuple(sorted(COMPOSED_KINDS))}),
    }
    header = header_of("", config=config.model_copy(update=changes), origin="refilter")
    rows = data.draw(rows_of(is_own=is_own))
    table = pa.Table.from_pylist(rows, schema=EXPRESSIONS_SCHEMA)
    clauses = kept_clauses(header)
    assert evaluated(clauses, rows) == refiltered(table, stated_rule(header))["kept"].to_pylist()


def test_what_no_score_decides_is_said_so():
    assert [each.condition for each in kept_clauses(header_of("tiny", origin="ppt"))] == [REFERENT]
    assert [(each.source, each.condition) for each in kept_clauses(header_of("tiny", origin="import"))] == [
        ("human", "always")
    ]
    (bound, *_) = kept_clauses(header_of("tiny", "filtering.engine=siglip", "filtering.keep=[count >= 2]"))
    assert bound.condition == "distinctiveness > some tau and count >= 2"
    assert bound.words == (
        "siglip kept captions by its own bound, which may differ from filtering.tau = 1.35, of those with count >= 2"
    )


@pytest.mark.parametrize("preset", ["tiny", "tiny-composed", "base", "paper", "open-composed"])
def test_each_clause_has_words_that_hold_its_condition(preset):
    for clause in kept_clauses(header_of(preset)):
        bounds = [part for part in clause.condition.split(" and ") if part not in ("always", "never")]
        assert all(bound in clause.words for bound in bounds)
        assert not clause.words.endswith((".", " "))
