"""The point generator between frozen features and SAM's frozen decoder, and its loss, equation 4 by hand."""

import math
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from segment_anything.modeling import Sam

from pseudoris.schemas.config_layers import load_config
from pseudoris.training.learning.trainer import make_optimiser, rate_at
from pseudoris.training.ppt.pairs import PseudoLabelBatch, PseudoLabels, collate_labels
from pseudoris.training.ppt.point_generator import (
    EncodedImages,
    FrozenFeatures,
    PointGenerator,
    PointPrompts,
    Stage,
    distinct_peaks,
)
from pseudoris.training.ppt.ppt_config import ObjectiveConfig, PointGeneratorConfig, load_ppt_config
from pseudoris.training.ppt.ppt_model import (
    PointMaskDecoder,
    PointPrompting,
    Points,
    assign,
    mask_losses,
    matching_cost,
    on_patches,
    point_loss,
)
from pseudoris.workers.masks.sam_model import load_sam

SMALL = PointGeneratorConfig(num_queries=5, num_points=4, image_blocks=(0, 2), width=32, num_heads=4)

# The point generator of paper in the sizes of SMALL.
_SIZES = {name: getattr(SMALL, name) for name in ("num_queries", "num_points", "image_blocks", "width", "num_heads")}
OF_PAPER = load_ppt_config("paper").generator.model_copy(update=_SIZES)


def _sam() -> Sam:
    masks = load_config("tiny").masks
    return load_sam(masks.architecture, masks.weights)


def _points() -> tuple[torch.Tensor, torch.Tensor]:
    """Coordinates of three queries' points, and logits of their labels."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(3, 5, 2, generator=generator), torch.randn(3, 5, generator=generator)


def _model(objective: ObjectiveConfig | None = None) -> PointPrompting:
    torch.manual_seed(0)
    generator = PointGenerator(SMALL, 24, 16)
    return PointPrompting(generator, PointMaskDecoder(_sam()), objective or ObjectiveConfig())


def _features(batch: int = 2) -> FrozenFeatures:
    generator = torch.Generator().manual_seed(1)
    is_word = torch.arange(6)[None] < torch.tensor([[4], [6]])[:batch]
    return FrozenFeatures(
        [torch.randn(batch, 24, 4, 4, generator=generator) for _ in SMALL.image_blocks],
        torch.randn(batch, 6, 16, generator=generator),
        is_word,
        torch.randint(1, 400, (batch, 6), generator=generator) * is_word,
        torch.randn(batch, 4, 4, generator=generator),
        EncodedImages(torch.randn(batch, 64, 16, 16, generator=generator), torch.full((batch, 2), 192.0)),
    )


def _labels() -> PseudoLabelBatch:
    generator = torch.Generator().manual_seed(2)

    def pair(count: int) -> PseudoLabels:
        return PseudoLabels(
            torch.rand(count, 64, 64, generator=generator).round(),
            torch.rand(count, 4, 2, generator=generator),
            torch.rand(count, 4, generator=generator).round(),
            torch.nn.functional.one_hot(torch.tensor(0), count).float(),
        )

    return collate_labels([pair(3), pair(1)])


def test_a_prediction_a_query_and_the_answer_is_that_of_the_most_confident() -> None:
    model, features = _model().eval(), _features()

    found = model.predictions(features)
    assert found.mask_logits.shape == (2, 5, 64, 64)
    assert found.prompts.points_xy.shape == (2, 5, 4, 2)
    assert ((found.prompts.points_xy >= 0) & (found.prompts.points_xy <= 1)).all()
    answer = model.referent(features)
    for pair, said in enumerate(found.prompts.confidence_logits.tolist()):
        best = max(range(5), key=said.__getitem__)
        assert torch.equal(answer.prompts.points_xy[pair], found.prompts.points_xy[pair, best])
        torch.testing.assert_close(answer.mask_logits[pair], found.mask_logits[pair, best])


def test_the_masks_are_those_of_sam_image_by_image() -> None:
    sam, (xy, logits) = _sam(), _points()
    embeddings = torch.randn(2, 64, 16, 16, generator=torch.Generator().manual_seed(1))
    sizes, rows = torch.tensor([[192.0, 192.0], [192.0, 96.0]]), torch.tensor([1, 0, 1])
    decode = PointMaskDecoder(sam)
    assert load_ppt_config("paper").sam.architecture == "vit_b"

    ours = decode(EncodedImages(embeddings, sizes), rows, PointPrompts(xy, logits, torch.zeros(3)))

    for place, row in enumerate(rows.tolist()):
        prompt = (xy[place] * sizes[row])[None], (logits[place] > 0).long()[None]
        sparse, dense = sam.prompt_encoder(points=prompt, boxes=None, masks=None)
        theirs, _ = sam.mask_decoder(
            image_embeddings=embeddings[row : row + 1],
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        assert torch.allclose(ours[place], theirs[0, 0], atol=1e-3)


def test_gradients_reach_coordinates_and_labels_and_no_weight_of_sam() -> None:
    sam, (xy, logits) = _sam(), (each.requires_grad_() for each in _points())
    images = EncodedImages(torch.randn(1, 64, 16, 16), torch.tensor([[192.0, 192.0]]))

    decoded = PointMaskDecoder(sam)(images, torch.zeros(3, dtype=torch.int64), PointPrompts(xy, logits, torch.zeros(3)))
    decoded.square().mean().backward()

    assert all((each.grad != 0).all() for each in (xy, logits))
    assert all(weight.grad is None for weight in sam.parameters())


@pytest.mark.parametrize("name", ["points_xy", "label_logits", "confidence_logits"])
def test_half_precision_does_not_round_what_the_heads_say(name) -> None:
    features = _features()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = getattr(_model().generator(features), name)

    assert found.dtype == torch.float32
    assert not torch.equal(found, found.bfloat16().float())


@pytest.mark.parametrize("head", ["point_head", "score_head"])
def test_the_loss_of_predictions_that_are_no_numbers_is_none_either(head) -> None:
    model = _model()
    torch.nn.init.constant_(next(getattr(model.generator, head).parameters()), torch.nan)

    terms = model.loss(_features(), _labels())
    assert set(terms) == {"loss", "mask", "point", "confidence"}
    assert all(bool(term.isnan()) for term in terms.values())


def test_a_stage_is_equation_1_queries_read_the_image_and_then_the_text() -> None:
    torch.manual_seed(0)
    stage, features = Stage(SMALL, 24, 16).eval(), _features()
    queries, position, query_position = torch.randn(2, 5, 32), torch.randn(16, 32), torch.randn(5, 32)
    image, nothing = features.image[0].flatten(2).transpose(1, 2), torch.zeros(())
    frames = {"position": position, "is_word": features.is_word}

    found, (fused_image, fused_text) = stage(
        queries, image, features.text, (nothing, nothing), query_position=query_position, **frames
    )

    assert torch.equal(fused_image, stage.bridge(image, features.text, (nothing, nothing), **frames)[0])
    read = stage.read_image(queries, fused_image, position=query_position, read_position=position)
    assert torch.equal(found, stage.read_text(read, fused_text, position=query_position, is_word=features.is_word))
    _assert_queries_go_from_stage_to_stage(features)


def _assert_queries_go_from_stage_to_stage(features: FrozenFeatures) -> None:
    """Q_1 is learnt, from random values; each stage reads with what the one before returned."""
    generator, given, returned = PointGenerator(SMALL, 24, 16).eval(), [], []

    def keep(module, args, out) -> None:
        given.append(args[0])
        returned.append(out[0])

    for stage in generator.stages:
        stage.register_forward_hook(keep)
    generator(features)
    first = generator.queries
    assert first.requires_grad
    assert len(set(first.flatten().tolist())) == first.numel()
    assert torch.equal(given[0], first.expand_as(given[0]))
    assert torch.equal(given[1], returned[0])


def test_padding_of_a_text_says_nothing() -> None:
    model, features = _model().eval(), _features()
    other_text = features.text.clone()
    other_text[0, 4:] = 100.0

    before, after = model.generator(features), model.generator(replace(features, text=other_text))

    assert torch.allclose(before.points_xy, after.points_xy, atol=1e-5)


@given(
    response=arrays(np.float32, (2, 7, 6), elements=st.floats(-4, 4, width=32)),
    count=st.integers(1, 4),
    radius=st.integers(0, 1),
)
def test_peaks_are_the_highest_answers_that_lie_apart(response: np.ndarray, count: int, radius: int) -> None:
    found = distinct_peaks(torch.from_numpy(response), count, radius)

    for row, peaks in zip(response, found.tolist(), strict=True):
        places = np.stack(np.unravel_index(peaks, row.shape), -1)
        # The plain reference: of all patches further away than the radius from each peak before, the highest.
        for at, place in enumerate(places):
            away = np.abs(np.indices(row.shape)[:, None] - places[:at].T[:, :, None, None]).max(0)
            is_left = (away > radius).all(0)
            assert is_left[tuple(place)]
            assert row[tuple(place)] == row[is_left].max()


def test_masks_of_sams_square_are_found_on_the_patches_of_the_stretched_image() -> None:
    # An image twice as wide as high: the upper half of SAM's square. Its right half is the object.
    masks = torch.zeros(1, 1, 64, 64)
    masks[0, 0, :32, 32:] = 1.0

    shares = on_patches(masks, torch.tensor([[1.0, 0.5]]), 4, 4).unflatten(-1, (4, 4))[0, 0]

    assert (shares[1:3, 2:] > 0.9).all()
    assert (shares[:, :2] < 0.1).all()


def test_what_lies_in_padding_counts_for_nothing(monkeypatch) -> None:
    model, features = _model(), _features()
    wide = replace(features, sam=replace(features.sam, input_sizes=torch.tensor([[192.0, 90.0], [192.0, 192.0]])))
    inside = model._decoder.inside(wide.sam, 64)
    assert inside[0].any(1).sum() == 30
    assert inside[0, :30].all()
    assert inside[1].all()

    before, answer = model.loss(wide, _labels()), model.referent(wide)
    # Whatever a decoder makes of padding.
    noise, decode = torch.where(inside, 0.0, 50.0), PointMaskDecoder.__call__

    def with_noise(own, images, rows, prompts):
        return decode(own, images, rows, prompts) + noise[rows]

    monkeypatch.setattr(PointMaskDecoder, "__call__", with_noise)
    after, spoilt = model.loss(wide, _labels()), model.referent(wide)

    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not torch.equal(answer.mask_logits, spoilt.mask_logits)
    assert torch.equal(model.masks_of(wide, answer), model.masks_of(wide, spoilt))


def test_gradients_reach_all_of_the_point_generator_and_nothing_frozen() -> None:
    model = _model()

    model.loss(_features(), _labels())["loss"].backward()

    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.generator.parameters())
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"generator"}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3))
def test_the_assignment_is_the_cheapest_of_all(seed: int, count: int) -> None:
    cost = torch.rand(1, 4, 3, generator=torch.Generator().manual_seed(seed))

    pairs = assign(cost, (count,))

    total = sum(cost[0, q, e].item() for q, e in zip(pairs.queries.tolist(), pairs.labels.tolist(), strict=True))
    every = permutations(range(4), count)
    best = min(sum(cost[0, q, e].item() for e, q in enumerate(queries)) for queries in every)
    assert abs(total - best) < 1e-6
    assert sorted(pairs.labels.tolist()) == list(range(count))
    assert len(set(pairs.queries.tolist())) == count


def test_more_labels_than_queries_leave_the_dearest_out() -> None:
    pairs = assign(torch.tensor([[[3.0, 1.0, 2.0]]]), (3,))

    assert (pairs.queries.tolist(), pairs.labels.tolist()) == ([0], [1])


def test_each_entry_of_the_cost_is_equation_4_of_its_pair() -> None:
    with torch.no_grad():
        found = _model().eval().predictions(_features())
    prompts, masks, wanted = found.prompts, found.mask_logits, _labels()
    weights = load_ppt_config("paper").objective.model_copy(update={"confidence": 0.7})

    cost = matching_cost(prompts, masks, wanted, weights)

    for b, k, e in [(0, 0, 0), (0, 2, 1), (0, 4, 2), (1, 2, 0)]:
        predicted = Points(prompts.points_xy[b, k][None], prompts.label_logits[b, k][None])
        points = Points(wanted.points_xy[b, e][None], wanted.labels[b, e][None])
        alone = mask_losses(masks[b, k][None, None], wanted.masks[b, e][None, None], weights)[0, 0, 0]
        alone = alone + point_loss(predicted, points, weights)[0]
        asked = F.binary_cross_entropy_with_logits(prompts.confidence_logits[b, k], wanted.confidences[b, e])
        assert torch.allclose(cost[b, k, e], alone + 0.7 * asked, atol=1e-6)


def test_the_point_loss_by_hand_with_and_without_the_assignment() -> None:
    predicted = Points(torch.tensor([[[0.1, 0.1], [0.9, 0.9]]]), torch.tensor([[0.0, 0.0]]))
    wanted = Points(torch.tensor([[[0.8, 0.8], [0.2, 0.2]]]), torch.tensor([[0.0, 1.0]]))
    assigned = ObjectiveConfig(point_l1=1.0, point_label=1.0)
    ordered = ObjectiveConfig(point_l1=1.0, point_label=1.0, point_correspondence="order")

    # Each point is 0.1 off on both axes; in the order drawn 0.7.
    assert point_loss(predicted, wanted, assigned).tolist() == pytest.approx([0.2 + math.log(2)])
    assert point_loss(predicted, wanted, ordered).tolist() == pytest.approx([1.4 + math.log(2)])


def test_masks_are_weighed_in_single_precision_whatever_the_training_computes_in() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = (torch.rand(2, 1, 256, 256, generator=generator) < 0.3).float()
    logits = (2 * masks - 1) * (12 + torch.rand(2, 3, 256, 256, generator=generator))

    single = mask_losses(logits, masks, ObjectiveConfig())
    with torch.autocast("cpu", torch.bfloat16):
        half = mask_losses(logits, masks, ObjectiveConfig())

    assert torch.equal(single, half)
    assert (single >= 0).all()


def test_in_paper_the_loss_is_equation_4_summed_over_its_terms_and_averaged_over_matched_pairs() -> None:
    model, features, labels = _model(load_ppt_config("paper").objective).eval(), _features(), _labels()

    terms = model.loss(features, labels)

    found = model.predictions(features)
    pairs = assign(matching_cost(found.prompts, found.mask_logits, labels, model.objective), labels.counts)
    masks, points = 0.0, 0.0
    for b, k, e in zip(pairs.rows.tolist(), pairs.queries.tolist(), pairs.labels.tolist(), strict=True):
        logits, wanted = found.mask_logits[b, k], labels.masks[b, e]
        share = logits.sigmoid()
        dice = 1 - (2 * (share * wanted).sum() + 1) / (share.sum() + wanted.sum() + 1)
        masks += (dice + F.binary_cross_entropy_with_logits(logits, wanted)).item()
        xy, said = found.prompts.points_xy[b, k], found.prompts.label_logits[b, k]
        points += min(
            ((xy - labels.points_xy[b, e, order]).abs().sum(-1).mean()).item()
            + F.binary_cross_entropy_with_logits(said, labels.labels[b, e, order]).item()
            for order in map(list, permutations(range(len(said))))
        )
    targets = torch.zeros_like(found.prompts.confidence_logits)
    targets[pairs.rows, pairs.queries] = labels.confidences[pairs.rows, pairs.labels]
    confidences = F.binary_cross_entropy_with_logits(found.prompts.confidence_logits, targets, reduction="sum").item()
    totals = {"mask": masks, "point": points, "confidence": confidences}
    by_hand = {name: total / len(pairs.rows) for name, total in totals.items()}
    by_hand["loss"] = sum(by_hand.values())
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(by_hand, abs=1e-4)


def test_in_paper_clips_response_changes_no_prompt() -> None:
    torch.manual_seed(0)
    generator, features = PointGenerator(OF_PAPER, 24, 16).eval(), _features()
    # Nor do codes of the tokens.
    one, *others = (
        generator(given)
        for given in (
            features,
            replace(features, response=torch.zeros(2, 4, 4)),
            replace(features, tokens=features.tokens + features.is_word),
        )
    )

    for name in ("points_xy", "label_logits", "confidence_logits"):
        assert all(torch.equal(getattr(one, name), getattr(other, name)) for other in others)


def test_in_paper_points_labels_and_confidences_are_perceptrons_of_the_last_queries_as_in_equation_2() -> None:
    torch.manual_seed(0)
    generator, features, queries = PointGenerator(OF_PAPER, 24, 16).eval(), _features(), []
    generator.norm.register_forward_hook(lambda module, given, out: queries.append(out))

    found = generator(features)

    (query,) = queries
    points = generator.point_head.layers(query).unflatten(-1, (4, 3))
    assert torch.equal(found.points_xy, points[..., :2].sigmoid())
    assert torch.equal(found.label_logits, points[..., 2])
    assert torch.equal(found.confidence_logits, generator.score_head.layers(query)[..., 0])
    for head in (generator.point_head.layers, generator.score_head.layers):
        # What a single linear layer would say.
        assert not torch.allclose(head(query) + head(-query), 2 * head(torch.zeros_like(query)), atol=1e-4)


def test_in_paper_adam_trains_the_point_generator_alone_at_one_rate_without_decay() -> None:
    model, training = _model(), load_ppt_config("paper").training

    optimiser = make_optimiser(model, training)

    (group,) = optimiser.param_groups
    assert type(optimiser) is torch.optim.Adam
    assert (group["lr"], group["weight_decay"], group["betas"]) == (1e-3, 0, (0.9, 0.999))
    assert {id(weight) for weight in group["params"]} == {id(weight) for weight in model.generator.parameters()}
    assert {rate_at(step, training.with_steps(1000)) for step in range(1000)} == {1e-3}
