"""The parts about few annotations and about a new domain, from figures to the page."""

from typing import Any

from experiments.quality import domains, semi


def _figures(miou: float) -> dict[str, Any]:
    return {name: {"mean": miou, "std": 0.01, "values": [miou, miou]} for name in ("miou", "oiou", "p50")}


def _kinds(miou: float) -> dict[str, Any]:
    return {kind: {"value": miou, "low": miou - 0.01, "high": miou + 0.01} for kind in ("all", "relation")}


def _point(share: float, mixed: float, alone: float | None, difference: float) -> dict[str, Any]:
    return {
        "share": share,
        "annotated": round(400 * share),
        "mixed": _kinds(mixed),
        "alone": None if alone is None else _kinds(alone),
        "mixed_minus_simulated_people": {"value": difference, "low": difference - 0.01, "high": difference + 0.01},
    }


SEMI = {
    "scenes": 400,
    "seeds": 2,
    "steps": 300,
    "test_scenes": 200,
    "points": [_point(0.0, 0.4, None, -0.1), _point(0.05, 0.45, 0.2, -0.05)],
}


def test_a_row_a_share_beside_annotators_alone_and_under_all_by_them() -> None:
    rows = semi.section(SEMI).splitlines()

    assert "| 0 % | 0 | – | 0.400 [0.390, 0.410] | 0.400 | -0.100 [-0.110, -0.090] |" in rows
    few = "| 5 % | 20 | 0.200 [0.190, 0.210] | 0.450 [0.440, 0.460] | 0.450 | -0.050 [-0.060, -0.040] |"
    assert few in rows
    assert "means of 2 seeds" in semi.section(SEMI)
    assert "one seed" in semi.section({**SEMI, "seeds": 1})


def test_the_curve_leaves_out_what_was_not_trained() -> None:
    (chart,) = semi.plots(SEMI).values()

    # Two points with pseudo-annotation, one without.
    assert chart.count("<circle") == 3
    assert "5 %" in chart


def test_the_new_domains_gain_is_over_simulated_annotation_in_the_old() -> None:
    names = ("old truth", "old pseudo", "new pseudo", "new truth")
    arms = dict(zip(names, map(_figures, (0.30, 0.25, 0.42, 0.60)), strict=True))

    worlds = {"new": arms, "old": {name: _figures(0.1) for name in names}}

    gain = {"value": 0.12, "low": 0.1, "high": 0.14, "seeds": [0.11, 0.13]}
    moved = {"value": 0.01, "low": -0.01, "high": 0.02, "seeds": [-0.01, 0.02]}
    told = {"gain": gain, "moved": moved}
    text = domains.section({"scenes": 400, "test_scenes": 200, "world": "shifted", "arms": worlds, **told})

    assert "simulated annotation of the old world: +0.120 [+0.100, +0.140], +0.110 to +0.130 by seed;" in text
    assert (
        "against such labels of the old one: +0.010 [-0.010, +0.020], -0.010 to +0.020 by seed: not told apart." in text
    )
    row = "| pseudo-annotation of the new world | 0.420 ± 0.010 | 0.420 ± 0.010 | 0.420 ± 0.010 | 0.100 ± 0.010 |"
    assert row in text
