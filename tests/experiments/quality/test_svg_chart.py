"""The parts about few annotations and about a new domain, from figures to the page."""

from typing import Any

from experiments.quality import domains, semi


def _figures(miou: float) -> dict[str, Any]:
    return {name: {"mean": miou, "std": 0.01, "values": [miou, miou]} for name in ("miou", "oiou", "p50")}


SEMI = {
    "scenes": 400,
    "seeds": 2,
    "steps": 300,
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
    text = semi.section(SEMI)
    assert "without people's, is above people's of 5 % alone. Beside people's it helps at 5 %." in text
    assert "It costs" not in text
    assert "one seed" not in text.lower()
    full = {"share": 1.0, "annotated": 400, "mixed": _figures(0.5), "alone": _figures(0.6)}
    said = semi.section({**SEMI, "points": [*SEMI["points"], full]})
    assert "is above people's of 5 % alone." in said
    assert "It costs at 100 %. Every training has 300 steps" in said
    assert "Of one seed each" in semi.section({**SEMI, "seeds": 1})
    never = {"share": 0.05, "annotated": 20, "mixed": _figures(0.1), "alone": _figures(0.5)}
    said = semi.section({**SEMI, "points": [SEMI["points"][0], never]})
    assert "is not above people's of any share alone. It costs at 5 %." in said


def test_the_curve_leaves_out_what_was_not_trained() -> None:
    (chart,) = semi.plots(SEMI).values()

    # Two points with pseudo-annotation, one without.
    assert chart.count("<circle") == 3
    assert "5 %" in chart


def test_the_new_domains_gain_is_over_people_in_the_old() -> None:
    names = ("old truth", "old pseudo", "new pseudo", "new truth")
    arms = dict(zip(names, map(_figures, (0.30, 0.25, 0.42, 0.60)), strict=True))

    worlds = {"new": arms, "old": {name: _figures(0.1) for name in names}}

    gain = {"value": 0.12, "low": 0.1, "high": 0.14, "seeds": [0.11, 0.13]}
    moved = {"value": 0.01, "low": -0.01, "high": 0.02, "seeds": [-0.01, 0.02]}
    told = {"gain": gain, "moved": moved}
    text = domains.section({"scenes": 400, "test_scenes": 200, "world": "shifted", "arms": worlds, **told})

    assert "people's annotation of the old world: +0.120 [+0.100, +0.140], +0.110 to +0.130 by seed;" in text
    assert (
        "against such labels of the old one: +0.010 [-0.010, +0.020], -0.010 to +0.020 by seed: not told apart." in text
    )
    row = "| pseudo-annotation of the new world | 0.420 ± 0.010 | 0.420 ± 0.010 | 0.420 ± 0.010 | 0.100 ± 0.010 |"
    assert row in text
