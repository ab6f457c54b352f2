"""The preset of the paper, and phases to rounds, as pure arithmetic."""

import pytest
from pydantic import ValidationError

from pseudoris.primitives.errors import ConfigError
from pseudoris.training.ppt.curriculum import describe, plan_rounds
from pseudoris.training.ppt.point_generator import PointGenerator
from pseudoris.training.ppt.ppt_config import CurriculumConfig, load_ppt_config
from pseudoris.training.ppt.recipes.grounding import prompted

PAIRS = {"d_sem": 600, "d_ref": 1200, "h_sem": 400, "h_ref": 800}


def num_batches(sources):
    return -(-sum(PAIRS[source] for source in sources) // 100)


def test_the_clip_of_paper_reads_the_expression_as_it_stands() -> None:
    assert prompted("the red star", load_ppt_config("paper").clip.prompt) == "the red star"


def test_paper_has_the_sizes_of_section_4_1() -> None:
    # CLIP ViT-B/16: 768 channels a patch, 512 a word. Table 2: 20.7M.
    generator = PointGenerator(load_ppt_config("paper").generator, 768, 512)
    assert sum(weight.numel() for weight in generator.parameters()) == pytest.approx(20.7e6, abs=0.05e6)


def test_the_papers_curriculum_has_its_mixes_and_its_fifty_epochs() -> None:
    rounds = plan_rounds(load_ppt_config("paper").curriculum, PAIRS, num_batches)

    assert [(each.phase, set(each.sources)) for each in rounds[:4]] == [
        ("semantic", {"h_sem", "d_sem"}),
        ("ris_augmented", {"h_sem", "d_sem", "d_ref"}),
        ("ris_joint", {"h_sem", "d_sem", "d_ref", "h_ref"}),
        ("refinement", {"h_sem", "h_ref"}),
    ]
    assert [each.is_selecting for each in rounds] == [False, False, *[True] * 6]
    assert [each.is_last for each in rounds] == [True, True, True, *[False] * 4, True]
    assert [(steps, pairs) for _, _, pairs, steps in describe(rounds, PAIRS)] == [
        *((10 * 10, 1000), (15 * 22, 2200), (15 * 30, 3000), (10 * 12, 1200))
    ]
    assert rounds[-1].epochs_before == 48
    assert rounds[-1].name == "04-refinement-5"
    assert [each.steps_before for each in rounds[:4]] == [0, 100, 430, 880]


def test_what_is_not_given_is_left_out_and_nothing_is_selected_without_pseudo_masks() -> None:
    rounds = plan_rounds(CurriculumConfig(), {**PAIRS, "h_ref": 0, "d_sem": 0}, num_batches)

    assert [each.sources for each in rounds] == [("h_sem",), ("h_sem", "d_ref"), ("d_ref", "h_sem"), ("h_sem",)]
    assert not any(each.is_selecting for each in rounds)


def test_a_factor_shortens_every_phase_and_leaves_a_step() -> None:
    rounds = plan_rounds(CurriculumConfig(epochs_factor=0.1), PAIRS, num_batches)
    assert [each.num_steps for each in rounds] == [10, 33, 45, 3, 3, 3, 3, 3]
    # An epoch that is begun counts, so that no round draws the points of an earlier one.
    assert [each.epochs_before for each in rounds] == [0, 1, 3, 5, 6, 7, 8, 9]
    least = plan_rounds(CurriculumConfig(epochs_factor=1e-6), PAIRS, num_batches)
    assert {each.num_steps for each in least} == {1}


def test_a_phase_without_data_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="Phase refinement trains on h_sem, h_ref, but none of them is given"):
        plan_rounds(CurriculumConfig(), {"d_sem": 10, "d_ref": 0, "h_sem": 0, "h_ref": 0}, num_batches)


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([], "phases is empty"),
        ([{"name": "a", "sources": ["d_sem"], "epochs": 1, "is_selecting": True}], "selects referents of h_ref"),
        (
            [{"name": "a", "sources": ["h_ref"], "epochs": 1, "is_selecting": True}],
            "is the first, so no model is trained yet",
        ),
        ([{"name": "a", "sources": ["h_ref"], "epochs": 1, "num_rounds": 2}], "selects nothing between them"),
        ([{"name": "a", "sources": ["h_ref", "h_ref"], "epochs": 1}], "names a source twice"),
        ([{"name": "a", "sources": ["d_sem"], "epochs": 1}] * 2, "Two phases have the name a"),
    ],
)
def test_a_curriculum_that_cannot_be_is_refused(phases, message) -> None:
    with pytest.raises(ValidationError, match=message):
        CurriculumConfig.model_validate({"phases": phases})
