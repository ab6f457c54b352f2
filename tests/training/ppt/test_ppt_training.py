"""The curriculum, as arithmetic and as one training: its rounds, what a kill costs, and what it needs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from lightning_fabric import Fabric
from pydantic import ValidationError

from pseudoris.primitives.errors import ConfigError
from pseudoris.training.evaluation.held_out import HeldOutExpressions, held_out_figures
from pseudoris.training.learning import open_fabric
from pseudoris.training.learning.checkpoint_folder import load_checkpoint
from pseudoris.training.learning.trainer import make_optimiser
from pseudoris.training.ppt.curriculum import SourceRuns, describe, plan_rounds
from pseudoris.training.ppt.point_generator import PointGenerator
from pseudoris.training.ppt.ppt_config import CurriculumConfig, PptConfig, load_ppt_config
from pseudoris.training.ppt.ppt_learner import FrozenEncoders, PointLearner, load_ppt
from pseudoris.training.ppt.ppt_training import PptRequest, PptSummary, Reports, train_ppt
from pseudoris.training.ppt.recipes.grounding import prompted
from tests.interchange.dataset.builders import build_run
from tests.training.checkpoints import KilledError, assert_equal_weights
from tests.training.ppt.builders import RECIPE, small_config, small_runs

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


def train(request: PptRequest, **reports) -> PptSummary:
    """Train in this process; `reports` as of `Reports`."""
    return train_ppt(request, open_fabric(request.config.training), Reports(**reports))[1]


ROUNDS = ["01-semantic", "02-ris_augmented", "03-ris_joint", "04-refinement-1", "04-refinement-2"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> SourceRuns:
    return small_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, runs):
    """A training that nothing interrupted: its request, its summary and what was reported."""
    folder = tmp_path_factory.mktemp("whole")
    request = PptRequest(small_config(folder), runs, folder / "out", val=runs.d_sem[0])
    selected, steps = [], []
    summary = train(
        request,
        on_step=lambda report: steps.append((report.step, report.num_steps)),
        on_select=lambda each, decided, pairs: selected.append((each.name, decided, pairs)),
    )
    return request, summary, selected, steps


@pytest.mark.slow
def test_every_round_leaves_its_checkpoint_and_its_curves_and_every_phase_its_figures(tmp_path, whole) -> None:
    request, summary, selected, steps = whole
    assert sorted(path.name for path in request.out.iterdir() if path.is_dir()) == ROUNDS
    for name in ROUNDS:
        assert (request.out / name / "checkpoint.pt").exists()
        assert list((request.out / name).glob("events.out.tfevents.*"))
    assert list(summary.phases) == ["semantic", "ris_augmented", "ris_joint", "refinement"]
    for figures in summary.phases.values():
        assert set(figures) == {"miou", "oiou", "p30", "p50", "p60", "p70", "p80", "p90"}
    # 8 pairs in batches of 4, then 16, then 20, then twice 8.
    assert [json.loads((request.out / name / "summary.json").read_text())["num_steps"] for name in ROUNDS] == [
        *(2, 4, 5),
        *(2, 2),
    ]
    assert summary.num_steps == summary.num_steps_now == 15
    assert {total for _, total in steps} == {15}
    assert max(step for step, _ in steps) == 15
    assert [(name, pairs) for name, _, pairs in selected] == [(name, 4) for name in ROUNDS[2:]]
    # In the batches of `paper`, three are an epoch of 192 pairs.
    rows = [(0, f"the star {at}", RECIPE) for at in range(192)]
    run = build_run(tmp_path / "run", num_shards=1, per_shard=1, rows=lambda number: rows, recipe="objects")
    words = [f"data.pairs_per_batch={load_ppt_config('paper').data.pairs_per_batch}", "curriculum.epochs_factor=1"]
    words += ['curriculum.phases=[{"name": "all", "sources": ["d_sem"], "epochs": 1}]']
    assert _planned(small_config(tmp_path, words), SourceRuns(d_sem=(run.location.root,)), tmp_path) == [3]


def _planned(config: PptConfig, runs: SourceRuns, folder: Path) -> list[int]:
    """Steps of each round of a training, which ends when it has told its plan."""
    kill = Mock(side_effect=KilledError)
    with pytest.raises(KilledError):
        train(PptRequest(config, runs, folder / "out"), on_plan=kill)
    return [each.num_steps for each in kill.call_args.args[0]]


@pytest.mark.slow
def test_select_decides_some_pairs_and_writes_which(whole) -> None:
    request, *_ = whole
    found = json.loads((request.out / ROUNDS[2] / "selected.json").read_text())
    assert found["pairs"] == 4
    assert found["decided"] == sum(each >= 0 for each in found["chosen"]) > 0


@pytest.mark.slow
def test_the_last_round_is_what_predicts(whole) -> None:
    request, *_ = whole
    assert_equal_weights(request.out, request.out / ROUNDS[-1])
    learner = load_ppt(request.out)
    image = torch.zeros(3, 20, 30, dtype=torch.uint8)
    found = learner.predict("grey", image, ["a star", "the red cup"])
    assert found.logits.shape == (2, 20, 30)
    assert found.points_xy.shape == (2, 3, 2)
    assert found.is_positive.shape == (2, 3)
    assert ((found.confidences >= 0) & (found.confidences <= 1)).all()
    again = learner.predict("grey", image, ["the red cup"])
    assert torch.allclose(again.logits[0], found.logits[1], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("until", [5, *(pytest.param(step, marks=pytest.mark.long) for step in (1, 9, 12))])
def test_killed_at_any_step_and_resumed_is_as_if_nothing_had_happened(tmp_path, whole, until) -> None:
    request, summary, *_ = whole
    cut = replace(request, out=tmp_path / "cut")

    def kill(report):
        if report.step >= until:
            raise KilledError

    with pytest.raises(KilledError):
        train(cut, on_step=kill)
    resumed = train(replace(cut, is_resuming=True))
    for name in ROUNDS:
        assert_equal_weights(request.out / name, cut.out / name)
    assert resumed.phases == summary.phases
    assert resumed.num_steps_now < 15 or until == 1


@pytest.mark.slow
def test_killed_between_select_and_its_round_and_resumed_asks_nobody_again(tmp_path, whole) -> None:
    request, *_ = whole
    cut = replace(request, out=tmp_path / "cut")
    with pytest.raises(KilledError):
        train(cut, on_select=Mock(side_effect=KilledError))
    asked = []
    train(replace(cut, is_resuming=True), on_select=lambda each, decided, pairs: asked.append(each.name))
    assert asked == ROUNDS[3:]
    assert_equal_weights(request.out, cut.out)


@pytest.mark.slow
def test_whether_there_is_room_to_keep_features_changes_nothing(tmp_path, whole) -> None:
    request, *_ = whole
    data = request.config.data.model_copy(update={"cache_bytes": 0})
    config = request.config.model_copy(update={"data": data})
    train(replace(request, config=config, out=tmp_path / "none", val=None))
    assert_equal_weights(request.out, tmp_path / "none")


@pytest.mark.long
def test_two_processes_learn_what_one_does(tmp_path, whole) -> None:
    request, *_ = whole
    training = request.config.training.model_copy(update={"num_devices": 2})
    both = replace(request, config=request.config.model_copy(update={"training": training}), out=tmp_path / "two")
    # Forked, as `open_fabric` would start the program anew: only how the second process comes to be differs.
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp_fork")
    fabric.launch(lambda each: train_ppt(both, each) and None)
    # Here every pair has one label, so that means of halves' means are means. Weights would tell nothing: whatever the
    # gradient, Adam's first steps are of one size.
    one, two = (_mean_gradient(each.out / ROUNDS[0]) for each in (request, both))
    assert (one - two).norm() < 0.01 * one.norm()
    for name in ROUNDS:
        assert load_checkpoint(both.out / name / "checkpoint.pt")["step"] > 0


def _mean_gradient(folder: Path) -> torch.Tensor:
    """Adam's average of the gradients at the end of a round."""
    state = load_checkpoint(folder / "checkpoint.pt")["optimiser"]["state"]
    return torch.cat([each["exp_avg"].flatten() for _, each in sorted(state.items())])


@pytest.mark.slow
def test_a_training_that_a_bad_image_stopped_goes_on_without_it(tmp_path) -> None:
    rows = [(0, "a star", RECIPE)]
    options = {"is_embedding": False, "rows": lambda number: rows, "recipe": "objects"}
    built = build_run(tmp_path / "run", num_shards=1, per_shard=4, **options)
    phases = '[{"name": "all", "sources": ["d_sem"], "epochs": 6}]'
    words = [f"curriculum.phases={phases}", "curriculum.epochs_factor=1", "data.cache_bytes=0"]
    words += ["training.checkpoint_every=1", "data.is_flipping=false"]
    request = PptRequest(small_config(tmp_path, words), SourceRuns(d_sem=(built.location.root,)), tmp_path / "out")
    lost = sorted(built.source.iterdir())[0]

    def lose(report):
        if report.step == 2:
            lost.unlink()

    with pytest.raises(ConfigError, match=f"{lost.name} of .* cannot be used .missing"):
        train(request, on_step=lose)
    skipping = small_config(tmp_path, [*words, "data.on_bad_image=skip"])
    summary = train(replace(request, config=skipping, is_resuming=True))

    assert summary.num_steps == 6
    assert 0 < summary.num_steps_now < 6


def test_an_epoch_of_pairs_that_come_together_by_image_is_as_many_steps_as_there_are_batches(tmp_path, runs) -> None:
    # All runs are of the same four images. A batch is up to four pairs of one: 2 an image, then 4, then 5, then 2.
    config = small_config(tmp_path, ["data.pairs_per_batch=4", "data.pairs_per_image=4"])
    assert _planned(config, runs, tmp_path) == [4, 4, 8, 4, 4]


@pytest.mark.slow
def test_another_setting_or_other_data_is_refused_by_name_on_a_resume(whole, runs) -> None:
    request, *_ = whole
    config = request.config
    other = config.model_copy(update={"objective": config.objective.model_copy(update={"dice": 2.0})})
    with pytest.raises(ConfigError, match=r"config.objective.dice: 1.0 then, 2.0 now"):
        train(replace(request, config=other, is_resuming=True))
    with pytest.raises(ConfigError, match=r"runs.d_ref"):
        train(replace(request, runs=replace(runs, d_ref=()), is_resuming=True))
    with pytest.raises(ConfigError, match="Continue it with --resume"):
        train(request)


@pytest.mark.slow
def test_a_resume_with_another_val_asks_each_phase_anew_and_trains_nothing(tmp_path, whole, runs) -> None:
    request, summary, *_ = whole
    shutil.copytree(request.out, tmp_path / "out")
    again = replace(request, out=tmp_path / "out", val=runs.d_ref[0], is_resuming=True)
    other = train(again)
    assert (other.num_steps_now, list(other.phases)) == (0, list(summary.phases))
    held_out = HeldOutExpressions(runs.d_ref[0])
    for name, phase in zip(("01-semantic", "04-refinement-2"), ("semantic", "refinement"), strict=True):
        asked = held_out_figures(load_ppt(again.out / name).answer, held_out)
        assert other.phases[phase] == pytest.approx(asked)
        assert other.phases[phase] != summary.phases[phase]
    assert_equal_weights(request.out, again.out)
    assert train(replace(again, val=request.val)).phases == summary.phases


@pytest.mark.parametrize(
    ("words", "val", "match"),
    [
        (
            ["generator.image_blocks=[0, 9]"],
            None,
            r"generator.image_blocks=\[0, 9\]: the image tower has blocks 0 to 1",
        ),
        ([], "nowhere", r"there is no run at .*nowhere"),
    ],
)
def test_what_is_refused_takes_no_folder(tmp_path, runs, words, val, match) -> None:
    request = PptRequest(small_config(tmp_path, words), runs, tmp_path / "out", val=val and str(tmp_path / val))
    with pytest.raises(ConfigError, match=match):
        train(request)
    assert not (tmp_path / "out").exists()


def test_no_weight_of_the_encoders_and_of_sam_is_trained(tmp_path) -> None:
    of_paper = load_ppt_config("paper").clip
    assert (of_paper.architecture, of_paper.weights.uri.rpartition("/")[2]) == ("ViT-B-16-quickgelu", "openai")
    config = small_config(tmp_path)
    encoders = FrozenEncoders(config)
    learner = PointLearner(config, encoders)

    optimiser = make_optimiser(learner.module, config.training)

    frozen = [*encoders._towers._model.parameters(), *encoders._sam.parameters()]
    assert not any(weight.requires_grad for weight in frozen)
    trained = {id(weight) for group in optimiser.param_groups for weight in group["params"]}
    assert trained.isdisjoint(map(id, frozen))
    features = encoders.encode(["grey"], [torch.zeros(3, 20, 30, dtype=torch.uint8)], ["a star"])
    assert not any(each.requires_grad for each in (*features.image, features.text, features.sam.embeddings))
