"""What the experiment asks the captioner for, what it chooses, and that its record follows from its own figures."""

import json
from pathlib import Path

import experiments
from experiments.vlm_contrast import OWN, PAPER, SIMILARITIES, WEIGHTS, Arm, chosen

RESULT = Path(experiments.__file__).parent / "results" / "vlm-contrast.json"
PAGE = Path(experiments.__file__).parents[1] / "docs" / "records" / "engines.md"
ALL = [Arm(similarity, weight) for similarity in SIMILARITIES for weight in WEIGHTS]


def test_arms_differ_in_the_contrast_alone():
    configs = [arm.config().model_dump() for arm in (OWN, *ALL)]
    contrasts = []
    for config in configs:
        sampling, options = config["captions"]["sampling"], config["captions"]["options"]
        contrasts.append((sampling.pop("is_distinctive"), sampling.pop("others_weight"), options.pop("similarity")))
    assert all(config == configs[0] for config in configs)
    assert contrasts[1:] == [(True, arm.weight, arm.similarity) for arm in ALL]
    assert not contrasts[0][0]


def test_each_similarity_gets_the_weight_that_is_best_on_sams_masks_and_the_best_of_these_comes_first():
    values = {arm.name: 0.5 for arm in ALL}
    values |= {Arm(SIMILARITIES[0], WEIGHTS[1]).name: 0.6, Arm(SIMILARITIES[1], WEIGHTS[2]).name: 0.7}
    figures = {name: {"sam": {"sampling.accuracy": {"value": value}}} for name, value in values.items()}
    assert chosen(figures) == [Arm(SIMILARITIES[1], WEIGHTS[2]), Arm(SIMILARITIES[0], WEIGHTS[1])]


def test_the_record_was_measured_with_what_its_development_scenes_chose_and_is_what_the_page_shows():
    record = json.loads(RESULT.read_text(encoding="utf-8"))
    best = chosen(record["development"])
    assert record["chosen"] == [arm.name for arm in best]
    assert list(record["test"]) == [arm.name for arm in (OWN, *best, *PAPER)]
    page = PAGE.read_text(encoding="utf-8")
    for by_masks in record["test"].values():
        for figures in by_masks.values():
            estimate = figures["sampling.accuracy"]
            assert f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]" in page
