"""What a chooser knows of masks, what it answers, and its trainings: they learn, resume to equal weights, read back."""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from pseudoris.files.location import RunLocation
from pseudoris.primitives import rle
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.tables import IMAGES
from pseudoris.store.runs.held_out_pictures import HoldOut
from pseudoris.store.sessions.combined_run import combine
from pseudoris.store.tables.open_run import OpenRun
from pseudoris.training.chooser.candidate_masks import CandidateStore, mask_geometry, pair_geometry
from pseudoris.training.chooser.chooser_training import (
    ChooserLearner,
    StudentRequest,
    choice_loss,
    load_student,
    mirrored,
    train_student,
)
from pseudoris.training.chooser.question_dataset import Question, QuestionDataset, collate_questions, mirrored_text
from pseudoris.training.evaluation.held_out import HeldOutExpressions, held_out_figures
from pseudoris.training.learning import TrainingFolder, open_fabric
from pseudoris.training.learning.checkpoint_folder import CONFIG_NAME
from pseudoris.training.learning.training_data import open_runs
from tests.builders.human import box_mask
from tests.training.checkpoints import KilledError, assert_equal_weights
from tests.training.chooser.builders import imported_run, small_config


def test_the_geometry_of_masks_and_pairs_is_in_shares_of_their_image():
    boxes = ((0, 0, 20, 20), (5, 5, 10, 10), (30, 0, 40, 20))
    counts = rle.encode(torch.tensor(np.stack([box_mask(box, (20, 40)) for box in boxes])))
    geometry = mask_geometry(counts, (20, 40))
    assert geometry[:, :3].tolist() == [[-0.5, 0.0, 0.5], [-0.625, -0.25, 0.03125], [0.75, 0.0, 0.25]]
    pairs = pair_geometry(geometry, counts, (20, 40))
    assert pairs[0, 2, 0] == -pairs[2, 0, 0] == 1.25
    assert pairs[1, 0, 6:].tolist() == [1.0, 25 / 400]
    assert pairs[0, 1, 6:].tolist() == [25 / 400, 1.0]


def test_a_mirrored_image_is_what_is_computed_of_mirrored_masks(store, pixels):
    candidates = store.of("scene", pixels)
    flipped = rle.encode(candidates.decoded().flip(2))
    geometry = mask_geometry(flipped, candidates.size)
    found = mirrored(candidates)
    torch.testing.assert_close(found.geometry, geometry)
    torch.testing.assert_close(found.pairs, pair_geometry(geometry, flipped, candidates.size))


def test_what_the_folder_keeps_is_what_is_made_anew(tmp_path, pixels, towers):
    config = small_config(tmp_path)

    def opened() -> CandidateStore:
        return CandidateStore(config, towers)

    made = opened().of("a", pixels)
    kept = opened().held("a")
    for each in fields(made):
        one, other = getattr(made, each.name), getattr(kept, each.name)
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    (file,) = tmp_path.rglob("*.safetensors")
    whole = file.read_bytes()
    for damage in (b"", b"x" * 90, whole[:-1]):
        file.write_bytes(damage)
        assert opened().held("a") is None
    opened().of("a", pixels)
    assert file.read_bytes() == whole


@pytest.mark.parametrize(
    "word",
    [
        "towers.layers=[1, 4]",
        "towers.weights.uri=random:1",
        'candidates.assignments=["masks.points_per_side=5"]',
        'candidates.assignments=["filtering.context_scale=1.5"]',
    ],
)
def test_candidates_of_other_settings_are_never_taken(tmp_path, towers, word):
    # The word is the only difference: it would replace the assignments of a small config, which are of masks.
    first, other = (small_config(tmp_path, ["candidates.assignments=[]", *words]) for words in ((), (word,)))
    digests = {CandidateStore(each, towers).digest for each in (first, other)}
    assert len(digests) == 2


@pytest.mark.parametrize("kind", ["link", "pipe"])
@pytest.mark.parametrize("ending", ["safetensors", "{pid}.unfinished"])
def test_what_others_planted_in_the_cache_is_named_and_not_written_through(tmp_path, towers, kind, ending):
    config = small_config(tmp_path / "cache")
    store = CandidateStore(config, towers)
    mine = tmp_path / "mine"
    mine.write_bytes(b"mine")
    image = sha256_hex(b"plain")
    planted = tmp_path / "cache" / store.digest[:16] / image[:2] / f"{image}.{ending.format(pid=os.getpid())}"
    planted.parent.mkdir(parents=True)
    if kind == "link":
        planted.symlink_to(mine)
    else:
        os.mkfifo(planted)
    with pytest.raises(ConfigError, match=rf"{planted.name} is a {kind}"):
        store.of("plain", torch.full((3, 48, 64), 200, dtype=torch.uint8))
    assert mine.read_bytes() == b"mine"


def test_masks_that_no_sam_proposes_are_refused(config, store):
    candidates = config.candidates.model_copy(update={"assignments": ("masks.engine=ready",)})
    ready = config.model_copy(update={"candidates": candidates})
    with pytest.raises(ConfigError, match=r"masks\.engine is 'ready'.*Give masks\.engine=sam"):
        CandidateStore(ready, store.towers)


TEXTS = ["the red circle", "the leftmost square on the top", "a star"]


@pytest.fixture
def learner(config, store):
    found = ChooserLearner(config, store)
    found.module.eval()
    return found


def test_an_answer_is_one_of_the_masks_whatever_is_asked_beside_it(learner, store, pixels):
    together = learner.choose("scene", pixels, TEXTS)
    torch.testing.assert_close(together.probabilities.sum(1), torch.ones(3))
    assert together.chosen.shape == (3, *pixels.shape[1:])
    for at, text in enumerate(TEXTS):
        alone = learner.choose("scene", pixels, [text]).probabilities[0]
        torch.testing.assert_close(alone, together.probabilities[at], atol=1e-5, rtol=1e-4)


def test_images_with_more_masks_beside_it_change_no_answer(learner, store, pixels):
    store.of("scene", pixels)
    store.of("part", pixels[:, :, : pixels.shape[2] // 2].contiguous())
    few, many = sorted(("scene", "part"), key=lambda key: len(store[key].counts))
    assert len(store[few].counts) < len(store[many].counts)

    def batch(*keys: str):
        return collate_questions([[Question(key, "the red circle", torch.ones(1), False)] for key in keys])

    alone, beside = (
        learner.module(learner._input([store[key] for key, _ in each.images], each.texts, each.owners))[0]
        for each in (batch(few), batch(few, many))
    )
    num = len(store[few].counts)
    torch.testing.assert_close(beside[:num], alone, atol=1e-5, rtol=1e-4)
    assert beside[num:].isinf().all()


def test_an_image_without_masks_is_answered_with_an_empty_one(learner):
    choice = learner.choose("plain", torch.full((3, 48, 64), 200, dtype=torch.uint8), TEXTS)
    assert choice.chosen.shape == (3, 48, 64)
    assert not choice.chosen.any()


def test_the_loss_is_least_where_scores_follow_the_ious():
    ious = torch.tensor([[0.9, 0.1, 0.0], [0.0, 0.5, 0.0]])
    absent = torch.tensor([[False, False, False], [False, False, True]])
    right = (ious / 0.1).masked_fill(absent, float("-inf"))
    least = choice_loss(right, ious[:, :3], 0.1)
    for wrong in (right.flip(0), torch.zeros(2, 3).masked_fill(absent, float("-inf"))):
        assert choice_loss(wrong, ious, 0.1) > least


def test_a_mirror_exchanges_words_and_nothing_within_words():
    found = mirrored_text("the left one, right of the leftover", {"left": "right"})
    assert found == "the right one, left of the leftover"
    assert mirrored_text(found, {"left": "right"}) == "the left one, right of the leftover"


def train(request, *, until: int | None = None):
    """Train; with `until`, end at the first report of so many steps, as a kill would."""

    def on_step(report):
        if until is not None and report.step >= until:
            raise KilledError

    return train_student(request, open_fabric(request.config.training), on_step=on_step)


@pytest.mark.slow
def test_killed_and_resumed_is_as_if_nothing_had_happened_and_reads_back_the_same(tmp_path, cache, run):
    config = small_config(cache, ["training.checkpoint_every=5", "model.dropout=0.1"])
    request = StudentRequest(config, [run], tmp_path / "whole", val=run)
    _, summary = train(request)
    cut = replace(request, out=tmp_path / "cut")
    with pytest.raises(KilledError):
        train(cut, until=8)
    _, resumed = train(replace(cut, is_resuming=True))
    assert resumed.num_steps_now == 7
    assert_equal_weights(request.out, cut.out)
    student = load_student(request.out)
    assert held_out_figures(student.answer, HeldOutExpressions(run)) == pytest.approx(summary.figures)


@pytest.mark.slow
@pytest.mark.long
def test_a_small_share_of_human_masks_brings_others_in_each_epoch_and_all_of_them_are_said(tmp_path, run):
    human = imported_run(tmp_path / "human", 4)
    words = ["data.human_share=0.05", "data.images_per_batch=16", "data.weighting=both", "data.is_kept_only=false"]
    request = StudentRequest(small_config(tmp_path / "masks", words, steps=6), [run], tmp_path / "out", human=human)
    train(request)
    assert load_student(request.out)._config.data.weighting == "both"
    origin = json.loads((request.out / "trained_on.json").read_text())
    assert HeldOutExpressions(human).image_digests() <= set(origin["images"])


@pytest.mark.slow
def test_it_learns_which_mask_is_meant(tmp_path, cache, run):
    words = ["training.peak_rate=0.003", "training.log_every=1", "mirrored_words=null"]
    losses = []
    request = StudentRequest(small_config(cache, words, steps=200), [run], tmp_path / "out", val=run)
    _, summary = train_student(
        request, open_fabric(request.config.training), on_step=lambda each: losses.append(each.values.get("train/loss"))
    )
    # The last report is the validation's.
    assert sum(losses[-11:-1]) < 0.5 * sum(losses[:10])
    before = ChooserLearner(request.config, load_student(request.out).store)
    assert summary.figures["miou"] > held_out_figures(before.answer, HeldOutExpressions(run))["miou"] + 0.05


@pytest.mark.slow
def test_masks_of_other_settings_than_it_was_trained_on_are_refused(tmp_path, cache, run, monkeypatch):
    request = StudentRequest(small_config(cache, steps=3), [run], tmp_path / "out")
    train(request)
    # As if SAM's weights had changed since.
    monkeypatch.setattr("pseudoris.training.chooser.candidate_masks.sam_digest", lambda masks: "others")
    with pytest.raises(ConfigError, match="chose among masks of the preset 'tiny' as it was then"):
        load_student(request.out)


def test_a_setting_that_redraws_outlines_is_refused_and_one_that_does_not_is_left_out(cache, caplog):
    with pytest.raises(ConfigError, match="refinement redraws outlines, which left in version"):
        small_config(cache, ["refinement.is_on=true"])
    assert small_config(cache, ["refinement={is_on: false, size: 16}"]) == small_config(cache)
    assert "refinement: left out. This setting of version 0.6 no longer exists" in caplog.text


@pytest.mark.slow
def test_a_student_of_0_6_is_read_and_resumed_unless_it_redraws_outlines(tmp_path, cache, run):
    request = StudentRequest(small_config(cache, steps=3), [run], tmp_path / "out")
    train(request)
    folder = TrainingFolder(request.out)
    settings, state = folder.settings(), folder.load()
    for is_on in (False, True):
        settings["config"]["refinement"] = {"is_on": is_on, "size": 48}
        folder.write_json(CONFIG_NAME, settings)
        folder.save({**state, "settings": json.dumps(settings)})
        for read in (lambda: load_student(request.out), lambda: train(replace(request, is_resuming=True))):
            with pytest.raises(ConfigError, match="student that redraws outlines, wh") if is_on else nullcontext():
                read()


@pytest.mark.slow
def test_losses_of_parts_of_a_batch_add_up_to_those_of_the_whole(cache, run, towers):
    config = small_config(cache, ["mirrored_words=null", "model.dropout=0"])
    store = CandidateStore(config, towers)
    learner = ChooserLearner(config, store)
    targets, images, _ = open_runs([run], None, config.data, seed=0)
    data = QuestionDataset(targets, images, store=learner.store, config=config)
    groups = data.__getitems__(range(len(data)))
    parts = [collate_questions(each) for each in (groups, groups[::3], [g for n, g in enumerate(groups) if n % 3])]
    whole, *shares = (learner.losses(learner.module, each)["loss"] * len(each) for each in parts)
    torch.testing.assert_close(sum(shares), whole, rtol=1e-4, atol=1e-4)


def test_a_batch_without_questions_gives_every_parameter_a_gradient_of_zero(config, towers):
    learner = ChooserLearner(config, CandidateStore(config, towers))
    learner.losses(learner.module, collate_questions([[]]))["loss"].backward()
    for name, each in learner.module.named_parameters():
        assert each.grad is not None, name
        assert not each.grad.any(), name


@pytest.mark.slow
def test_a_run_with_splits_is_learnt_from_as_train_and_validated_on_its_val(tmp_path, cache, run):
    split = RunLocation.open(str(tmp_path / "split"))
    combine([("", RunLocation.open(run))], split, hold_out=HoldOut.of({"val": 0.4}))
    request = StudentRequest(small_config(cache, steps=4), [split.root], tmp_path / "out", val=split.root)
    learner, summary = train(request)
    rows = OpenRun.at(split).table(IMAGES, ("sha256", "split")).to_pylist()
    of = {name: {row["sha256"] for row in rows if row["split"] == name} for name in ("train", "val")}
    assert set(json.loads((request.out / "trained_on.json").read_text())["images"]) == of["train"]
    assert learner.held_out.image_digests() == of["val"]
    assert not any("Circular: 1" in note or "learnt from" in note for note in summary.circularity)
