"""`pseudoris estimate`: what of it is shown; the sample itself is `tests/pipeline/test_sample_estimate.py`."""

import dataclasses
import json
from unittest.mock import Mock

import pytest

from pseudoris.pipeline.sample_estimate import RunEstimate
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.estimate import Estimate
from tests.builders.command import invoke, pseudoris_here


def found(**changes):
    values = RunEstimate(
        source="/photos",
        num_images=1_200_000,
        num_shards=4_688,
        num_sampled=200,
        num_sample_shards=8,
        num_warming_shards=1,
        device_kind="cpu",
        unit="GPU",
        num_units=4,
        load_s=75.0,
        images_per_s=Estimate(12.34, 11.0, 13.5),
        hours=Estimate(6.75, 6.2, 7.6),
        unit_hours=Estimate(27.0, 24.8, 30.4),
        output_bytes=Estimate(2**31, 2**30, 3 * 2**30),
        quarantined=Estimate(0.015, 0.0, 0.04),
        stage_seconds={"propose": 0.05, "caption": 0.02},
    )
    return dataclasses.replace(values, **changes)


@pytest.fixture
def shown(monkeypatch):
    """Return a function that shows an estimate as the command does, its lines without the space that aligns them."""

    def lines(**changes) -> list[str]:
        monkeypatch.setattr("pseudoris.pipeline.sample_estimate.estimate", lambda *_, **__: found(**changes))
        printed = invoke("estimate", "photos", "--preset", "base").stdout
        return [" ".join(line.split()) for line in printed.splitlines()]

    return lines


def test_each_figure_is_shown_with_its_interval_and_unit(shown):
    told = shown()
    for line in (
        "/photos: estimate",
        "images 1,200,000 in 4,688 shards",
        "sample 200 images in 8 shards, on cpu",
        "speed 12.3 (11 to 13.5) images/s per GPU, once models are loaded",
        "models 1 min 15 s per actor to load the models, not included in the speed",
        "hours 6.75 (6.2 to 7.6) on 4 GPUs",
        "GPU hours 27 (24.8 to 30.4)",
        "output 2.0 GiB (1.0 GiB to 3.0 GiB)",
        "quarantined 1.5% (0.0% to 4.0%)",
        "seconds per image propose 0.050, caption 0.020",
    ):
        assert line in told


def test_what_left_the_sample_without_masks_is_shown_beside_the_quarantine(shown):
    assert "empty images 12 % of the images have no mask." in shown(empty_images="12 % of the images have no mask.")


def test_too_few_images_give_figures_and_no_interval(shown):
    told = shown(num_sampled=3, num_sample_shards=3, hours=Estimate(1.34, 0.2, 3.5e3))
    assert "hours 1.34 on 4 GPUs" in told
    assert "quarantined 1.5%" in told
    assert told[-1].startswith("Only 3 images were measured: too few for intervals, which take 16. Raise --sample")


def test_options_reach_the_sample_and_json_is_one_object(monkeypatch, tmp_path):
    asked = {}
    (tmp_path / "names.txt").write_text("a.png\n")

    def run_sample(source, config, *, size, num_gpus, scratch, exclusions, on_progress):
        asked.update(source=source, points=config.masks.points_per_side, size=size, num_gpus=num_gpus, scratch=scratch)
        asked["excluded"] = [sorted(rule.values) for rule in exclusions]
        on_progress(1, 2)
        return found()

    monkeypatch.setattr("pseudoris.pipeline.sample_estimate.estimate", run_sample)
    options = ["--sample", "24", "--gpus", "0.5", "--scratch", "s3://b/x", "--set", "masks.points_per_side=5", "--json"]
    options += ["--exclude", str(tmp_path / "names.txt"), "--only", str(tmp_path / "names.txt")]
    result = invoke("estimate", "--preset=tiny", "photos", *options)
    expected = {"source": "photos", "points": 5, "size": 24, "num_gpus": 0.5, "scratch": "s3://b/x"}
    assert asked == {**expected, "excluded": [["a.png"], ["a.png"]]}
    printed = json.loads(result.stdout)
    assert printed["hours"] == {"value": 6.75, "low": 6.2, "high": 7.6}
    assert printed["source"] == "/photos"


UNTESTED = "note The preset base was never run with trained weights: look at a sample before you annotate all."
DRAWN = "note The preset tiny knows drawn scenes alone: of photographs it makes nonsense."


@pytest.mark.parametrize(("preset", "said"), [("tiny", DRAWN), ("base", UNTESTED)])
@pytest.mark.parametrize("words", [("annotate",), ("annotate", "--dry-run"), ("estimate",)], ids=" ".join)
def test_what_is_known_against_a_preset_comes_before_the_work(monkeypatch, tmp_path, words, preset, said):
    begun = ConfigError("the work begins here")
    for place in ("annotation.annotate", "annotation.dry_run", "sample_estimate.estimate"):
        monkeypatch.setattr(f"pseudoris.pipeline.{place}", Mock(side_effect=begun))
    places = [str(tmp_path)] if words == ("estimate",) else [str(tmp_path), str(tmp_path / "out")]
    ended = pseudoris_here(*words, f"--preset={preset}", *places, code=2)
    assert ended.stderr.index(said) < ended.stderr.index("the work begins here")
