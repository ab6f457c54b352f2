"""The part about segmenters: from figures to the page."""

from experiments.quality import segmenters


def _figures(miou: float) -> dict[str, object]:
    names = ("miou", "oiou", "p30", "p50", "p70", "p90")
    return {name: {"mean": miou, "std": 0.01, "values": [miou, miou]} for name in names}


def _step(value: float) -> dict[str, object]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01, "seeds": [value - 0.005, value + 0.005]}


def test_a_row_a_step_and_what_each_is_worth() -> None:
    arms = {name: _figures(miou) for name, miou in zip(segmenters._TITLES, (0.2, 0.25, 0.3, 0.4, 0.5), strict=True)}
    steps = {name: _step(0.05) for name in ("distinctive", "filtered", "composed", "truth")}

    text = segmenters.section({"scenes": 400, "test_scenes": 150, "seeds": 3, "arms": arms, "differences": steps})

    assert text.startswith("## ")
    assert "| + filter | 0.300 ± 0.010 |" in text
    assert "+ filter +0.050 [+0.040, +0.060], +0.045 to +0.055 by seed" in text
