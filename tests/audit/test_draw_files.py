from types import SimpleNamespace

import pytest

from pseudoris.audit.draw_files import keeps_no_others, num_unseen
from pseudoris.schemas.keep_rule import KeepRule, parse_conditions

DRAWN = "2026-01-01T00:00:00+00:00"


def known(rule, drawn, *, created_utc=DRAWN, parent=None):
    header = SimpleNamespace(created_utc=created_utc, parent=parent and SimpleNamespace(created_utc=parent))
    run = SimpleNamespace(created_utc=DRAWN, rule=None if drawn is None else str(drawn))
    return keeps_no_others(header, rule, run)


def rule(tau, *conditions, lone="keep"):
    return KeepRule(tau, parse_conditions(conditions), lone_masks=lone)


@pytest.mark.parametrize(
    ("changed", "drawn", "expected"),
    [
        (rule(1.4), rule(1.4), True),
        (rule(1.5, "count >= 2"), rule(1.4), True),
        (rule(1.3, "count >= 2"), rule(1.4), False),
        (rule(1.4), rule(1.4, "count >= 2"), False),
        (rule(1.4, "count >= 3", "count < 9"), rule(1.4, "count >= 2", "count < 9"), True),
        (rule(1.4, "log_prob < -2"), rule(1.4, "log_prob < -1"), True),
        (rule(1.4, "log_prob < -1"), rule(1.4, "log_prob < -2"), False),
        (rule(1.4, lone="drop"), rule(1.4), True),
        (rule(1.4), rule(1.4, lone="drop"), False),
        (rule(1.4, lone="drop"), rule(1.4, lone="better_half"), True),
        (rule(None), rule(None), True),
        (rule(1.4), rule(None), False),
        (rule(1.4), None, True),
    ],
    ids=str,
)
def test_a_rule_keeps_no_others_if_each_bound_is_as_strict(changed, drawn, expected):
    assert known(changed, drawn) == expected


def test_only_the_drawn_run_and_its_refilters_have_the_scores_that_a_bound_is_compared_on():
    assert known(rule(1.5), rule(1.4), created_utc="2026-02-02T00:00:00+00:00", parent=DRAWN)
    assert not known(rule(1.5), rule(1.4), created_utc="2026-02-02T00:00:00+00:00")
    assert not known(None, None, created_utc="2026-02-02T00:00:00+00:00", parent=DRAWN)


def test_pairs_that_no_rule_decides_about_are_not_among_those_that_it_may_keep():
    named = [("kept, without a score", 1), ("not kept, without a score", 10), ("not kept, score 0.10 to 0.20", 100)]
    strata = [
        SimpleNamespace(name=name, is_kept=name.startswith("kept"), num_units=number, num_drawn=0)
        for name, number in named
    ]
    draw = SimpleNamespace(strata=strata)
    assert num_unseen(draw, keeps_no_others=True) == 1
    assert num_unseen(draw, keeps_no_others=False) == 101
