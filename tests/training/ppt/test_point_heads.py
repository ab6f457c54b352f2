"""The heads of equation 2: regressed points, and points around the peak of an attention."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import avg_pool2d

from pseudoris.synthworld.renderer import render
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.training.ppt.point_generator import (
    PointGenerator,
    PointHead,
    ReferencePatchAttention,
    ScoreHead,
    grid_centres,
)
from pseudoris.training.ppt.ppt_config import PointGeneratorConfig, load_ppt_config
from pseudoris.training.ppt.ppt_learner import FrozenEncoders
from pseudoris.training.ppt.ppt_model import FrozenFeatures, PointPrompting
from pseudoris.training.ppt.pseudo_labels import PseudoLabels, collate, masks_in_frame, points_in_box
from recipes.simulated_expressions import first_voice_expressions

# The heads and the objective of `paper`, small, behind the encoders of `tiny`.
SMALL = [
    *("generator.point_head=regression", "generator.is_response_read=false", "generator.word_code_width=0"),
    *("generator.response_gain=0", "generator.anchor_gain=0", "generator.num_queries=2"),
    *("generator.image_blocks=[3, 4]", "objective.look=0", "objective.point_l1=1", "objective.point_label=1"),
    *("objective.confidence=1", "objective.confidence_in_matching=1"),
]


def test_points_labels_and_confidences_are_perceptrons_of_the_query_as_in_equation_2() -> None:
    queries, points, scores = torch.randn(2, 5, 32), PointHead(32, 4), ScoreHead(32)

    xy, labels = points(queries)

    found = points.layers(queries).unflatten(-1, (4, 3))
    assert torch.equal(xy, found[..., :2].sigmoid())
    assert torch.equal(labels, found[..., 2])
    assert torch.equal(scores(queries), scores.layers(queries)[..., 0])


def test_a_confidence_with_a_gain_begins_at_clips_response() -> None:
    queries, responses, scores = torch.randn(2, 5, 32), torch.randn(2, 5), ScoreHead(32, 3.0)

    assert torch.allclose(scores(queries, responses) - scores.layers(queries)[..., 0], 3 * responses, atol=1e-5)


def _attention(response: torch.Tensor, anchors: list[int], **settings: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The references (K, 2), and log-shares, of queries that find nothing beside responses in five rows of four."""
    attention = ReferencePatchAttention(PointGeneratorConfig(width=32, num_heads=4, **settings))
    for weight in (attention.key.weight, attention.sharpness.weight):
        torch.nn.init.zeros_(weight)
    queries, image = torch.randn(1, len(anchors), 32), torch.randn(1, 20, 32)
    _, log_shares, peaks = attention(queries, image, response[None], torch.tensor([anchors]))
    return (peaks @ grid_centres(5, 4))[0], log_shares[0]


def test_points_spread_about_where_the_query_looks() -> None:
    head, places = PointHead(32, 4), torch.tensor([[[0.3, 0.8], [0.5, 0.1]]])
    for weight in (head.layers[-1].weight, head.layers[-1].bias):
        torch.nn.init.zeros_(weight)

    xy, _ = head(torch.randn(1, 2, 32), places)

    assert torch.allclose(xy, places[:, :, None].expand(1, 2, 4, 2), atol=1e-6)


def test_a_query_looks_where_clip_answers() -> None:
    response = torch.zeros(5, 4)
    response[1, 2] = 1.0

    places, log_shares = _attention(response, [0, 0, 0], response_gain=60.0)

    assert torch.allclose(places, torch.tensor([2.5 / 4, 1.5 / 5]), atol=1e-3)
    assert log_shares.exp()[:, 6].min() > 0.99


def test_a_query_in_doubt_between_two_objects_looks_at_one_of_them() -> None:
    response = torch.zeros(5, 4)
    response[0, 0], response[4, 3] = 1.0, 0.99

    places, _ = _attention(response, [0], response_gain=60.0, peak_radius=1)

    assert torch.allclose(places, torch.tensor([0.5 / 4, 0.5 / 5]), atol=1e-3)


def test_queries_keep_to_anchors_of_their_own() -> None:
    response = torch.zeros(5, 4)
    response[0, 0], response[4, 3] = 2.0, 1.0

    places, _ = _attention(response, [0, 19], response_gain=10.0, peak_radius=1, anchor_gain=60.0)

    assert torch.allclose(places, torch.tensor([[0.5 / 4, 0.5 / 5], [3.5 / 4, 4.5 / 5]]), atol=1e-3)


NUM_SCENES, NUM_STEPS = 20, 60


@pytest.fixture(scope="module")
def encoders() -> FrozenEncoders:
    """Those of `tiny`: real features of synthetic scenes, and a SAM that draws them."""
    return FrozenEncoders(load_ppt_config("tiny", None, SMALL))


@pytest.fixture(scope="module")
def scenes(encoders) -> tuple[FrozenFeatures, torch.Tensor, float]:
    """Features of twenty scenes with an expression of one object each, its masks (20, 192, 192), and chance."""
    images, texts, masks, chances = [], [], [], []
    for position in range(NUM_SCENES):
        scene = make_scene(Split.DEVELOPMENT, position)
        painted, number = render(scene), position % len(scene.objects)
        images.append(torch.from_numpy(painted.image).permute(2, 0, 1))
        texts.append(first_voice_expressions(scene, number)[0].text)
        masks.append(torch.from_numpy(painted.masks[number]))
        chances.append(1 / len(scene.objects))
    found = encoders.encode([str(position) for position in range(NUM_SCENES)], images, texts)
    # Sixty-four patches are a quarter of the work.
    small = [avg_pool2d(stage, 2) for stage in found.image]
    response = avg_pool2d(found.response[:, None], 2)[:, 0]
    return replace(found, image=small, response=response), torch.stack(masks), sum(chances) / NUM_SCENES


def hit_rate(encoders: FrozenEncoders, scenes: tuple[FrozenFeatures, torch.Tensor, float], words: list[str]) -> float:
    """Return the share of expressions whose answer has an IoU above 0.5 with its object, after some steps on all."""
    config, (features, masks, _) = load_ppt_config("tiny", None, words), scenes
    torch.manual_seed(0)
    generator = PointGenerator(config.generator, encoders.image_width, encoders.text_width)
    model = PointPrompting(generator, encoders.decoder, config.objective)
    optimiser = torch.optim.Adam(generator.parameters(), lr=config.training.peak_rate)
    targets = masks_in_frame(masks, encoders.frame)
    for step in range(NUM_STEPS):
        drawn = [
            points_in_box(mask.numpy(), config.generator.num_points, NUM_SCENES * step + at)
            for at, mask in enumerate(masks)
        ]
        labels = collate(
            [
                PseudoLabels(target[None], torch.from_numpy(xy)[None], torch.from_numpy(label)[None], torch.ones(1))
                for target, (xy, label) in zip(targets, drawn, strict=True)
            ]
        )
        optimiser.zero_grad()
        model.loss(features, labels)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(generator.parameters(), config.training.max_gradient_norm)
        optimiser.step()
    answers = model.masks_of(features, model.eval().referent(features))
    found = targets >= 0.5
    return float(((answers & found).sum((1, 2)) > 0.5 * (answers | found).sum((1, 2))).float().mean())


@pytest.mark.long
@pytest.mark.usefixtures("one_thread")
def test_regressed_points_hit_the_objects_of_twenty_scenes_before_points_about_a_peak_do(encoders, scenes) -> None:
    *_, chance = scenes

    regressed = hit_rate(encoders, scenes, SMALL)
    about_a_peak = hit_rate(
        encoders, scenes, [*SMALL, "generator.point_head=patch_attention", "generator.is_response_read=true"]
    )

    # Measured with two seeds: 0.95 and 0.95, the attention 0.75 and 0.80. Chance is a fifth.
    assert regressed >= 0.8 > chance
    assert about_a_peak < regressed
