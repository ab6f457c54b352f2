"""What the experiment asks the captioner for, and what it chooses."""

from experiments.vlm_contrast import OWN, SIMILARITIES, WEIGHTS, Arm, chosen

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
