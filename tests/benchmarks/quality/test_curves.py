"""The parts about few annotations and about a new domain, from figures to the page."""

from typing import Any

from benchmarks.quality import domains, semi


def _figures(miou: float) -> dict[str, Any]:
    return {name: {"mean": miou, "std": 0.01, "values": [miou, miou]} for name in ("miou", "oiou", "p50")}


SEMI = {
    "scenes": 400,
    "seeds": 2,
    "test_scenes": 200,
    "points": [
        {"share": 0.0, "annotated": 0, "mixed": _figures(0.4), "alone": None},
        {"share": 0.05, "annotated": 20, "mixed": _figures(0.45), "alone": _figures(0.2)},
    ],
}


def test_a_row_a_share_with_what_pseudo_annotation_gains() -> None:
    rows = semi.section(SEMI).splitlines()

    assert "| 0 % | 0 | – | 0.400 ± 0.010 | – |" in rows
    assert "| 5 % | 20 | 0.200 ± 0.010 | 0.450 ± 0.010 | +0.250 |" in rows


def test_what_the_curve_says_follows_the_figures() -> None:
    assert "is worth more than people's of 5 %. Beside people's it helps up to 5 %." in semi.section(SEMI)
    full = {"share": 1.0, "annotated": 400, "mixed": _figures(0.5), "alone": _figures(0.6)}
    said = semi.section({**SEMI, "points": [*SEMI["points"], full]})
    assert "is worth more than people's of 5 % and no more than of 100 %." in said
    assert "Where 100 % are annotated it costs 0.100" in said
    never = {"share": 0.05, "annotated": 20, "mixed": _figures(0.1), "alone": _figures(0.5)}
    assert "Beside people's it never helps" in semi.section({**SEMI, "points": [SEMI["points"][0], never]})


def test_the_curve_leaves_out_what_was_not_trained() -> None:
    (chart,) = semi.plots(SEMI).values()

    # Two points with pseudo-annotation, one without.
    assert chart.count("<circle") == 3
    assert "5 %" in chart


def test_the_new_domains_gain_is_over_people_in_the_old() -> None:
    names = ("old truth", "old pseudo", "new pseudo", "new truth")
    arms = dict(zip(names, map(_figures, (0.30, 0.25, 0.42, 0.60)), strict=True))

    worlds = {"new": arms, "old": {name: _figures(0.1) for name in names}}

    text = domains.section({"scenes": 400, "test_scenes": 200, "world": "shifted", "arms": worlds})

    assert "old world: +0.120 mIoU" in text
    row = "| pseudo-annotation of the new world | 0.420 ± 0.010 | 0.420 ± 0.010 | 0.420 ± 0.010 | 0.100 ± 0.010 |"
    assert row in text
