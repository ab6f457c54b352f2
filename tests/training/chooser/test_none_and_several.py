"""The answers "none of these" and several masks: what is taught, when it is said, and what is stored with a student."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evidence.experiments.quality.scene_runs import SceneRun
from pseudoris.interchange.dataset import RisDataset, SampleSpec
from pseudoris.primitives import rle
from pseudoris.synthworld.scenes import Split
from pseudoris.training.chooser.candidate_masks import Candidates, CandidateStore
from pseudoris.training.chooser.choices import Choice, least_none, trusted_levels
from pseudoris.training.chooser.chooser_training import ChooserLearner, StudentRequest, load_student, train_student
from pseudoris.training.chooser.question_dataset import QuestionDataset, collate_questions
from pseudoris.training.evaluation.held_out import HeldOutExpressions, held_out_figures
from pseudoris.training.learning import open_fabric
from tests.builders.grefs import grefs_run
from tests.builders.human import box_mask
from tests.training.chooser.builders import small_config

NONE = ["data.none=0.3"]


@pytest.fixture(scope="session")
def grefs(tmp_path_factory) -> str:
    """An import of four scenes with expressions of their objects and of none."""
    return grefs_run(tmp_path_factory.mktemp("grefs"), SceneRun(Split.TRAIN, 4))


@pytest.fixture
def none_learner(cache, towers):
    config = small_config(cache, NONE)
    found = ChooserLearner(config, CandidateStore(config, towers))
    found.module.eval()
    return found


def square(x: int, side: int, y: int = 2) -> torch.Tensor:
    return torch.tensor(box_mask((x, y, x + side, y + side), (24, 32)))


def candidates(*masks: torch.Tensor) -> Candidates:
    counts = tuple(rle.encode(torch.stack(masks)))
    return Candidates.of((24, 32), counts, crops=torch.zeros(len(masks), 2, 4), pooled=torch.zeros(len(masks), 3))


def test_where_no_expressions_of_none_are_learnt_a_chooser_is_what_it_was(cache, config, store, none_learner):
    plain = ChooserLearner(config, store).module.state_dict()
    other = none_learner.module.state_dict()
    assert other.keys() - plain.keys() == {"none", "min_none", "trusted_levels"}
    assert all(torch.equal(value, other[name]) for name, value in plain.items())
    assert not {"groups", "none"} & config.decisive()["data"].keys()
    assert small_config(cache, NONE).decisive()["data"]["none"] == 0.3


def test_none_and_the_masks_share_one_probability(none_learner, pixels):
    choice = none_learner.choose("scene", pixels, ["the red circle", "a purple fork"])
    assert choice.none is not None
    torch.testing.assert_close(choice.probabilities.sum(1) + choice.none, torch.ones(2))
    assert choice.min_none is None
    nothing = none_learner.choose("plain", torch.full((3, 48, 64), 200, dtype=torch.uint8), ["a star"])
    assert nothing.is_absent.all()


# Without a threshold it is the answer where it is likelier than every mask.
@pytest.mark.parametrize(
    ("least", "is_absent"), [(0.3, [True, True]), (0.5, [False, True]), (1.1, [False, False]), (None, [False, True])]
)
def test_from_the_threshold_on_no_mask_is_the_answer(least, is_absent):
    masks = torch.stack([square(2, 5), square(12, 5)])
    shares = torch.tensor([[0.6, 0.0], [0.1, 0.1]])
    choice = Choice(shares, masks, none=torch.tensor([0.4, 0.8]), min_none=least)
    assert choice.is_absent.tolist() == is_absent
    assert (~choice.chosen.flatten(1).any(1)).tolist() == is_absent
    assert choice.likeliest.flatten(1).any(1).all()


def test_several_masks_are_chosen_that_are_as_likely_and_apart():
    # The third lies in the first.
    masks = torch.stack([square(2, 8), square(16, 6), square(3, 6, 3)])
    shares = torch.tensor([[0.36, 0.30, 0.34], [0.9, 0.05, 0.05]])
    several = Choice(shares, masks, is_of_several=True)
    assert several.numbers == [[0, 1], [0]]
    assert torch.equal(several.chosen[0], masks[0] | masks[1])
    assert Choice(shares, masks).numbers == [[0], [0]]


def test_members_of_a_union_are_its_largest_candidates_that_lie_apart():
    found = candidates(square(2, 8), square(16, 6), square(3, 6, 3), square(24, 7, 15))
    union = square(2, 8) | square(16, 6)
    assert found.member_ious(union, 2)[:2].tolist() == [1.0, 1.0]
    assert found.member_ious(union, 2)[2] == pytest.approx(36 / 64)
    assert found.member_ious(union, 2)[3] == 0
    # One of two: less of the union is made up.
    assert found.member_ious(union, 1)[0] == pytest.approx(64 / 100)
    assert not found.member_ious(square(25, 3, 0), 2).any()


@pytest.mark.slow
def test_an_expression_of_none_asks_for_none_and_others_for_their_mask(cache, grefs, none_learner):
    targets, images = (RisDataset(grefs, SampleSpec(parts=parts, none=0.3)) for parts in (("mask", "text"), ("image",)))
    data = QuestionDataset(targets, images, store=none_learner.store, config=small_config(cache, NONE))
    asked = {targets[at]["num_masks"]: data[at] for at in range(len(data)) if data[at]}
    (absent,), (single,) = asked[0], asked[1]
    assert absent.ious[0] == 1
    assert not absent.ious[1:].any()
    assert single.ious[0] == 0
    assert single.ious.max() > 0.3
    batch = collate_questions([asked[0], asked[1]])
    loss = none_learner.losses(none_learner.module, batch)["loss"]
    assert torch.isfinite(loss)
    loss.backward()
    assert none_learner.module.none.grad.abs().sum() > 0


def asked_and_choices(rows):
    """Return questions, and a `choose` that answers each with its probability of none, right or wrong, and levels."""
    masks, questions, answers = torch.stack([square(2, 5), square(12, 5)]), [], {}
    for number, (none, has_target, is_right, *levels) in enumerate(rows):
        target = masks[:1] if has_target else torch.zeros_like(masks[:1])
        questions.append(SimpleNamespace(image_key=str(number), image=None, texts=["x"], masks=target))
        shares = torch.tensor([[1.0, 0.0] if is_right else [0.0, 1.0]]) * (1 - none)
        said = torch.tensor([none], dtype=torch.float64)
        answers[str(number)] = Choice(shares, masks, none=said, levels=torch.tensor(levels) if levels else None)
    return lambda key, image, texts: answers[key], questions


def giou(rows, least):
    said = [none >= least for none, _, _ in rows]
    right = [
        absent != has if absent or not has else is_right for absent, (_, has, is_right) in zip(said, rows, strict=True)
    ]
    return float(np.mean(right))


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.4, 0.5, 0.9, 0.99]), st.booleans(), st.booleans()), min_size=1))
def test_the_threshold_has_the_highest_giou(rows):
    least = least_none(*asked_and_choices(rows))
    if all(has for _, has, _ in rows):
        assert least is None
        return
    assert least is not None
    best = max(giou(rows, each) for each in (0.05, 0.2, 0.45, 0.7, 0.95, 1.5))
    assert giou(rows, least) == pytest.approx(best)


def leaning(*, count=200):
    """The logit of none leans to the truth; the first level, about 6, is lower where there is no target."""
    for number in range(count):
        has_target, place = number % 3 > 0, (number * 7 % 20 - 10) / 5
        logit = torch.tensor(place + (0.3 if has_target else 1.0))
        yield logit.sigmoid().item(), has_target, True, [6.0 + has_target + place / 5, 4.0 + number * 11 % 13 / 13]


def test_levels_are_trusted_as_far_as_they_tell_absences_on_development_scenes():
    rows = list(leaning())
    found = trusted_levels(*asked_and_choices(rows))
    first, second, constant = found.tolist()
    assert first < -0.5
    assert abs(second) < 0.2 * abs(first)
    # On average nothing is added.
    added = first * np.mean([levels[0] for *_, levels in rows]) + second * np.mean([levels[1] for *_, levels in rows])
    assert added == pytest.approx(-constant, rel=1e-4)


def test_levels_count_for_nothing_where_the_answer_itself_says_nothing_or_nothing_is_absent():
    wrong = [(0.6 if has_target else 0.4, has_target, *rest) for _, has_target, *rest in leaning()]
    assert trusted_levels(*asked_and_choices(wrong)).tolist() == [0, 0, 0]
    for is_there in (True, False):
        assert trusted_levels(*asked_and_choices([row for row in leaning() if row[1] == is_there])) is None


@pytest.mark.slow
@pytest.mark.long
def test_a_student_learns_not_here_and_stores_when_it_says_so(tmp_path, cache, grefs):
    words = [*NONE, "training.peak_rate=0.003", "mirrored_words=null", "data.draw=distinct"]
    request = StudentRequest(small_config(cache, words, steps=200), [grefs], tmp_path / "out", val=grefs)
    learner, summary = train_student(request, open_fabric(request.config.training))
    assert summary.figures["n_acc"] > 0.5
    assert summary.figures["t_acc"] > 0.5
    assert learner.min_none is not None
    student = load_student(request.out)
    assert student.min_none == pytest.approx(learner.min_none)
    assert student.module.trusted_levels.any()
    assert torch.equal(student.module.trusted_levels, learner.module.trusted_levels)
    asked = HeldOutExpressions(grefs, has_groups=True)
    assert held_out_figures(student.answer, asked) == pytest.approx(summary.figures)
    # A restart script that resumes what is done changes nothing.
    again, resumed = train_student(replace(request, is_resuming=True), open_fabric(request.config.training))
    assert (resumed.num_steps_now, resumed.figures) == (0, pytest.approx(summary.figures))
    assert torch.equal(again.module.trusted_levels, learner.module.trusted_levels)
    assert again.min_none == pytest.approx(learner.min_none)


def test_none_is_asked_how_well_the_masks_fit_and_not_only_which_fits_best(none_learner, pixels):
    candidates, texts = none_learner.store.of("scene", pixels), ["the red circle", "a purple fork"]
    # Cosines below those of the padding, 0.
    other = replace(
        candidates, crops=-candidates.crops[:1], pooled=candidates.pooled[:1], geometry=candidates.geometry[:1]
    )
    both = [candidates, replace(other, counts=candidates.counts[:1], pairs=candidates.pairs[:1, :1])]
    assert len(candidates.counts) > 1
    given = none_learner._input(both, texts * 2, torch.tensor([0, 0, 1, 1]))
    cosines = torch.einsum("nkd,tqd->tnkq", candidates.crops.float(), none_learner._embedded(texts)).flatten(2)
    expected = 10 * torch.cat([cosines.amax(1), cosines.mean(1)], 1)
    torch.testing.assert_close(given.levels[:2], expected)
    # Of one mask, padded to the number of the other image's, both are its own.
    torch.testing.assert_close(given.levels[2:], -10 * torch.cat([cosines[:, 0], cosines[:, 0]], 1))
    before = none_learner.choose("scene", pixels, texts).none
    with torch.no_grad():
        none_learner.module.trusted_levels.fill_(-0.1)
    change = none_learner.choose("scene", pixels, texts).none.logit() - before.logit()
    torch.testing.assert_close(change, -0.1 * (expected.sum(1) + 1), rtol=1e-3, atol=1e-3)
