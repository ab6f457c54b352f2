"""The point generator between frozen features and SAM's decoder."""

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from schemas.config_loading import load_config
from training.ppt.config import ObjectiveConfig, PointGeneratorConfig
from training.ppt.layers import grid_centres
from training.ppt.matching import assign, matching_cost
from training.ppt.model import FrozenFeatures, PointPrompting, confidence_targets
from training.ppt.point_generator import PointGenerator, PointHead
from training.ppt.prompting import EncodedImages, PointMaskDecoder
from training.ppt.pseudo_labels import PseudoLabelBatch, PseudoLabels, collate
from workers.checkpoints.models import load_sam

SMALL = PointGeneratorConfig(num_queries=5, num_points=4, image_blocks=(0, 2), width=32, num_heads=4)


def _model(objective: ObjectiveConfig | None = None) -> PointPrompting:
    masks = load_config("tiny").masks
    torch.manual_seed(0)
    generator = PointGenerator(SMALL, 24, 16)
    decoder = PointMaskDecoder(load_sam(masks.architecture, masks.weights))
    return PointPrompting(generator, decoder, objective or ObjectiveConfig())


def _features(batch: int = 2) -> FrozenFeatures:
    generator = torch.Generator().manual_seed(1)
    is_word = torch.arange(6)[None] < torch.tensor([[4], [6]])[:batch]
    return FrozenFeatures(
        [torch.randn(batch, 24, 4, 4, generator=generator) for _ in SMALL.image_blocks],
        torch.randn(batch, 6, 16, generator=generator),
        is_word,
        torch.randn(batch, 4, 4, generator=generator),
        EncodedImages(torch.randn(batch, 64, 16, 16, generator=generator), torch.full((batch, 2), 192.0)),
    )


def _wanted() -> PseudoLabelBatch:
    generator = torch.Generator().manual_seed(2)

    def pair(count: int) -> PseudoLabels:
        return PseudoLabels(
            torch.rand(count, 64, 64, generator=generator).round(),
            torch.rand(count, 4, 2, generator=generator),
            torch.rand(count, 4, generator=generator).round(),
            torch.nn.functional.one_hot(torch.tensor(0), count).float(),
        )

    return collate([pair(3), pair(1)])


def test_a_prediction_a_query_and_the_most_confident_is_picked() -> None:
    model, features = _model().eval(), _features()

    found = model(features)

    assert found.mask_logits.shape == (2, 5, 64, 64)
    assert found.prompts.points_xy.shape == (2, 5, 4, 2)
    assert ((found.prompts.points_xy >= 0) & (found.prompts.points_xy <= 1)).all()
    picked = found.most_confident()
    confidences = found.prompts.confidence_logits
    assert (confidences.gather(1, picked[:, None]) >= confidences).all()


@pytest.mark.parametrize("name", ["points_xy", "label_logits", "confidence_logits"])
def test_half_precision_does_not_round_what_the_heads_say(name) -> None:
    features = _features()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = getattr(_model().generator(features.image, features.text, features.is_word, features.response), name)

    assert found.dtype == torch.float32
    assert not torch.equal(found, found.bfloat16().float())


@pytest.mark.parametrize("head", ["point_head", "score_head"])
def test_the_loss_of_predictions_that_are_no_numbers_is_none_either(head) -> None:
    model = _model()
    torch.nn.init.constant_(next(getattr(model.generator, head).parameters()), torch.nan)

    terms = model.loss(_features(), _wanted())

    assert set(terms) == {"loss", "mask", "point", "confidence"}
    assert all(bool(term.isnan()) for term in terms.values())


def test_padding_of_a_text_says_nothing() -> None:
    model, features = _model().eval(), _features()
    other_text = features.text.clone()
    other_text[0, 4:] = 100.0

    before = model.generator(features.image, features.text, features.is_word, features.response)
    after = model.generator(features.image, other_text, features.is_word, features.response)

    assert torch.allclose(before.points_xy, after.points_xy, atol=1e-5)


def test_text_response_and_every_stage_of_the_image_reach_the_points() -> None:
    model, features = _model().eval(), _features()
    image = [stage.clone().requires_grad_() for stage in features.image]
    text, response = features.text.clone().requires_grad_(), features.response.clone().requires_grad_()

    model.generator(image, text, features.is_word, response).points_xy.square().sum().backward()

    assert all(stage.grad is not None and stage.grad.abs().sum() > 0 for stage in image)
    assert response.grad is not None
    assert response.grad.abs().sum() > 0
    assert text.grad is not None
    assert text.grad[0, :4].abs().sum() > 0


def test_points_are_told_from_where_the_query_looks() -> None:
    head = PointHead(32, 4, response_gain=60.0)
    for weight in (head.gain.weight, head.layers[-1].weight, head.layers[-1].bias):
        torch.nn.init.zeros_(weight)
    response = torch.zeros(1, 5 * 4)
    # Of the grid of five rows and four columns: row 1, column 2.
    response[0, 6] = 1.0

    told = head(torch.randn(1, 3, 32), torch.randn(1, 20, 32), response, grid_centres(5, 4))

    assert torch.allclose(told[..., :2], torch.tensor([2.5 / 4, 1.5 / 5]), atol=1e-3)


def test_a_matched_pair_weighs_as_much_in_the_confidences_as_in_masks_and_points() -> None:
    model, features, wanted = _model().eval(), _features(), _wanted()
    found = model(features)
    pairs = assign(matching_cost(found.prompts, found.mask_logits, wanted, model.objective), wanted.counts)
    targets = confidence_targets(found.prompts, wanted, pairs)

    every = F.binary_cross_entropy_with_logits(found.prompts.confidence_logits, targets, reduction="sum")

    assert model.loss(features, wanted)["confidence"].item() == pytest.approx(every.item() / len(pairs.rows))


def test_gradients_reach_all_of_the_point_generator_and_nothing_frozen() -> None:
    model = _model()

    model.loss(_features(), _wanted())["loss"].backward()

    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.generator.parameters())
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"generator"}


def test_unmatched_queries_are_to_say_no_and_nothing_else() -> None:
    model, features, wanted = _model().eval(), _features(), _wanted()
    found = model(features)
    pairs = assign(matching_cost(found.prompts, found.mask_logits, wanted, model.objective), wanted.counts)

    targets = confidence_targets(found.prompts, wanted, pairs)

    assert len(pairs.rows) == 4
    # One referent a pair; the two contexts of the first, and all queries without a label, are to say 0.
    assert targets.sum(-1).tolist() == [1.0, 1.0]
    referents = (pairs.labels == 0).nonzero()[:, 0]
    assert all(targets[pairs.rows[at], pairs.queries[at]] == 1 for at in referents.tolist())


def test_the_loss_is_the_sum_of_its_terms_over_matched_pairs() -> None:
    model, features, wanted = _model().eval(), _features(), _wanted()

    terms = model.loss(features, wanted)

    assert terms["loss"].item() == pytest.approx(sum(terms[name].item() for name in ("mask", "point", "confidence")))
    found = model(features)
    cost = matching_cost(found.prompts, found.mask_logits, wanted, ObjectiveConfig(confidence=0.0))
    pairs = assign(matching_cost(found.prompts, found.mask_logits, wanted, model.objective), wanted.counts)
    matched = cost[pairs.rows, pairs.queries, pairs.labels].mean().item()
    assert (terms["mask"] + terms["point"]).item() == pytest.approx(matched, abs=1e-4)


def test_some_steps_on_one_batch_bring_points_and_confidences_down() -> None:
    model, features, wanted = _model(), _features(), _wanted()
    adam = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        terms = model.loss(features, wanted)
        adam.zero_grad()
        terms["loss"].backward()
        adam.step()
        losses.append((terms["point"] + terms["confidence"]).item())

    assert losses[-1] < 0.6 * losses[0]


def test_another_number_of_stages_is_refused_with_both_numbers() -> None:
    features = _features()

    with pytest.raises(ValueError, match="1 stages of features for a point generator of 2 stages"):
        _model().generator(features.image[:1], features.text, features.is_word, features.response)


def test_the_papers_size_is_the_papers_within_five_percent() -> None:
    generator = PointGenerator(PointGeneratorConfig(), image_width=768, text_width=512)

    assert sum(weight.numel() for weight in generator.parameters()) == pytest.approx(20.7e6, rel=0.05)


def test_a_width_that_heads_and_positions_cannot_share_is_refused() -> None:
    with pytest.raises(ValidationError, match="width 50 is no multiple of 4 times num_heads 8"):
        PointGeneratorConfig(width=50)
