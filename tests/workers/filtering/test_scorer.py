"""Scores of candidates by their definition, and what is kept by them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.schemas.config import ComputeConfig, FilterConfig, WeightsConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.fitted import line_weights, read_fitted
from pseudoris.schemas.keep_rule import KeepRule, keeps, parse_conditions
from pseudoris.schemas.shard import CaptionSample, ExpressionRecord, Failure, Shard, ShardImage
from pseudoris.workers.crops.crops import make_crops
from pseudoris.workers.filtering import ClipScorer
from pseudoris.workers.filtering.scorer import score_candidates
from tests.builders.crops import runs_of
from tests.builders.fitted import fitted_file
from tests.builders.images import encode
from tests.builders.scene_runs import mask_records

HEIGHT, WIDTH = 60, 80
TEXTS = ("a red circle with a tail", "left", "two dogs")
SAMPLE = CaptionSample("masked", "beam", None, None, -1.0)
# With this seed cosines are positive: where all are clamped, every ratio is 1.
CONFIG = FilterConfig(architecture="builtin:tiny/clip.json", weights=WeightsConfig(uri="random:5"), batch_size=16)


@pytest.fixture(scope="module")
def scorer():
    return ClipScorer(CONFIG, ComputeConfig(device="cpu"))


def pixels_of(position):
    return np.random.default_rng(position).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def mask_of(index):
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[4 * index : 4 * index + 11, 6 * index : 6 * index + 17] = True
    return mask


def build_image(position=0, *, num_masks=3, texts=TEXTS):
    image_id = f"{position:016x}"
    masks = mask_records(image_id, np.array([mask_of(n) for n in range(num_masks)]).reshape(-1, HEIGHT, WIDTH))
    expressions = [ExpressionRecord((mask.mask_id,), text, (SAMPLE,)) for mask in masks for text in texts]
    image = ShardImage(position, image_id, f"{position}.png", encode(pixels_of(position)), "0" * 64, HEIGHT, WIDTH)
    return replace(image, masks=masks, expressions=tuple(expressions))


def build_shard(*images):
    return Shard(0, 0, images)


def context_and_masked(image, crop_format):
    """Return the context crops and the masked crops of the masks of `build_image`."""
    boxes, runs = [mask.box_xyxy_px for mask in image.masks], [runs_of(mask_of(mask.index)) for mask in image.masks]
    options = {"scales": (1.2, None), "crop_format": crop_format, "device": torch.device("cpu")}
    return make_crops(pixels_of(0), boxes, runs=runs, **options)


def test_scores_equal_the_definition_computed_on_open_clips_own_forward(scorer):
    image = build_image(num_masks=3)
    got = scorer(build_shard(image)).images[0]
    model = scorer._embedder._model
    context, masked = context_and_masked(image, scorer._embedder.crop_format)
    prompts = {"a red circle with a tail": "circle", "left": "left", "two dogs": "dogs"}
    for expression in got.expressions:
        i = [mask.mask_id for mask in image.masks].index(expression.target_mask_ids[0])
        tokens = scorer._embedder.tokeniser([expression.text, f"a photo of a {prompts[expression.text]}"])
        with torch.inference_mode():
            caption, prompt = model.encode_text(tokens, normalize=True)
            c = (model.encode_image(context, normalize=True) @ caption).clamp(min=1e-4)
            m = (model.encode_image(masked, normalize=True) @ prompt).clamp(min=1e-4)
        others = [k for k in range(3) if k != i]
        rival = max(others, key=lambda k: float(c[k] * m[k]))
        assert expression.correctness == pytest.approx(float(m[i]), rel=1e-4)
        assert expression.uniqueness == pytest.approx(float(c[i] / c[others].max()), rel=1e-4)
        assert expression.distinctiveness == pytest.approx(float(c[i] * m[i] / (c[rival] * m[rival])), rel=1e-4)
        assert expression.rival_mask_id == image.masks[rival].mask_id
        assert expression.kept == (expression.distinctiveness > 1.0)


def test_head_nouns_are_stored_and_null_where_the_rules_find_none(scorer):
    got = scorer(build_shard(build_image(num_masks=1))).images[0]
    assert [expression.head_noun for expression in got.expressions] == ["circle", None, "dogs"]


def test_twins_score_exactly_alike_so_none_of_their_expressions_passes_tau(scorer):
    image = build_image(num_masks=7)
    best = next(each for each in scorer(build_shard(image)).images[0].expressions if each.kept)
    mask = next(mask for mask in image.masks if mask.mask_id == best.target_mask_ids[0])
    twin = replace(mask, mask_id=f"{image.image_id}-0107", index=107)
    said = replace(best, target_mask_ids=(twin.mask_id,))
    both = replace(image, masks=(*image.masks, twin), expressions=(*image.expressions, said))
    scored = scorer(build_shard(both)).images[0].expressions
    first = next(each for each in scored if (each.target_mask_ids, each.text) == (best.target_mask_ids, best.text))
    second = scored[-1]
    # Alone the mask was the best; now its twin is its rival, and the ratio is exactly 1.
    assert first.distinctiveness == second.distinctiveness == 1.0
    assert (first.rival_mask_id, second.rival_mask_id) == (twin.mask_id, mask.mask_id)
    assert (first.kept, second.kept) == (False, False)


def test_an_image_scores_the_same_bits_alone_and_in_company(scorer):
    images = [build_image(0, num_masks=3), build_image(1, num_masks=1), build_image(2, num_masks=5)]
    together = scorer(build_shard(*images)).images
    for image, scored in zip(images, together, strict=True):
        assert scorer(build_shard(image)).images[0] == scored


def test_an_image_that_cannot_be_cut_is_quarantined_and_the_rest_goes_on(scorer):
    broken, good = replace(build_image(1), data=b"no image at all"), build_image(2)
    got = scorer(build_shard(build_image(0), broken, good))
    assert got.images[1].failure == Failure("filter", "not_an_image", got.images[1].failure.message)
    assert (got.images[1].masks, got.images[1].expressions, got.images[1].data) == ((), (), b"")
    assert got.images[2] == scorer(build_shard(good)).images[0]


def test_an_image_without_masks_passes_untouched(scorer):
    empty = build_image(num_masks=0)
    assert scorer(build_shard(empty)).images == (empty,)


def test_expressions_of_several_targets_or_none_pass_through_unscored(scorer):
    image = build_image(num_masks=2)
    both = replace(image.expressions[0], target_mask_ids=tuple(m.mask_id for m in image.masks), kind="group")
    nobody = replace(image.expressions[0], target_mask_ids=(), kind="none")
    got = scorer(build_shard(replace(image, expressions=(both, *image.expressions, nobody)))).images[0]
    assert (got.expressions[0], got.expressions[-1]) == (both, nobody)
    assert got.expressions[1:-1] == scorer(build_shard(image)).images[0].expressions


def test_a_bound_on_the_log_probability_reads_the_first_draw_as_the_table_does():
    rule = {"tau": 0.0, "keep": parse_conditions(["log_prob > -2"])}
    bounded = ClipScorer(CONFIG.model_copy(update=rule), ComputeConfig(device="cpu"))
    image = build_image(num_masks=1, texts=TEXTS[:2])
    likely, unlikely = SAMPLE, replace(SAMPLE, log_prob=-3.0)
    draws = [(likely, unlikely), (unlikely, likely)]
    said = tuple(replace(each, samples=two) for each, two in zip(image.expressions, draws, strict=True))
    scored = bounded(build_shard(replace(image, expressions=said))).images[0]
    assert [each.kept for each in scored.expressions] == [True, False]


def test_tau_decides_what_is_kept_and_changes_no_score(scorer):
    strict = ClipScorer(CONFIG.model_copy(update={"tau": 1e9}), ComputeConfig(device="cpu"))
    loose, tight = (s(build_shard(build_image())).images[0].expressions for s in (scorer, strict))
    assert not any(expression.kept for expression in tight)
    assert [replace(e, kept=False) for e in loose] == list(tight)


def test_the_weight_is_the_probability_that_its_line_makes_of_confidence():
    weighing = {"confidence": {"correctness": 2.0}, "pair_weight": {"drawn": {"bias": -1.0, "slope": 0.5}}}
    config = FilterConfig.model_validate({**CONFIG.model_dump(), "fitted": read_fitted(str(fitted_file(**weighing)))})
    (image,) = ClipScorer(config, ComputeConfig(device="cpu"))(build_shard(build_image())).images
    line = config.fitted_values.pair_weight.drawn
    due = line_weights(line, np.array([each.confidence for each in image.expressions]))
    assert [each.weight for each in image.expressions] == due.tolist()
    assert all(0 < each.weight < 1 for each in image.expressions)


@pytest.mark.slow
def test_conditions_keep_what_tau_keeps_and_they_let_pass():
    image = build_image(num_masks=3)
    # Trained ones: cosines of random weights are mostly negative, and so all equal once clamped.
    trained = WeightsConfig(uri="builtin:tiny/clip.safetensors")
    config = CONFIG.model_copy(update={"tau": 0.0, "weights": trained})
    (scored,) = ClipScorer(config, ComputeConfig(device="cpu"))(build_shard(image)).images
    assert all(expression.kept for expression in scored.expressions)
    bound = sorted({expression.correctness for expression in scored.expressions})[1]
    tree = {**config.model_dump(), "keep": [f"correctness > {bound!r}", "log_prob >= -1", "count <= 1"]}
    strict = ClipScorer(FilterConfig.model_validate(tree), ComputeConfig(device="cpu"))
    (filtered,) = strict(build_shard(image)).images
    assert [expression.kept for expression in filtered.expressions] == [
        expression.correctness > bound for expression in scored.expressions
    ]
    assert {expression.kept for expression in filtered.expressions} == {True, False}


MIN_COSINE = 1e-4


def scores(context, masked, targets):
    return score_candidates(context, masked, targets=targets, min_cosine=MIN_COSINE)


def test_a_lone_mask_has_correctness_alone():
    got = scores([[0.2, 0.9]], [[0.7, -1.0]], [0, 0])
    assert got.correctness == pytest.approx([0.7, MIN_COSINE])
    assert (got.uniqueness, got.distinctiveness, got.rival) == (None, None, None)
    paper = load_config("paper").filtering
    columns = {"distinctiveness": np.full(2, np.nan), "correctness": got.correctness, "count": np.ones(2)}
    assert keeps(KeepRule(paper.tau, paper.keep, lone_masks=paper.lone_masks), columns, [0, 0]).all()


@pytest.mark.parametrize(
    ("context", "masked", "targets", "message"),
    [
        ([[0.1]], [[0.1, 0.2]], [0], r"got \(1, 1\), \(1, 2\)"),
        ([[0.1]], [[0.1]], [1], r"targets must lie in 0\.\.0, got 1\.\.1"),
        ([[0.1]], [[0.1]], [-1], r"targets must lie in 0\.\.0"),
        ([[float("nan")], [0.1]], [[0.1], [0.1]], [0], "not finite"),
    ],
)
def test_what_cannot_be_scored_is_refused(context, masked, targets, message):
    with pytest.raises(ValueError, match=message):
        scores(context, masked, targets)


@st.composite
def problems(draw):
    masks, texts = draw(st.integers(1, 6)), draw(st.integers(0, 8))
    cosine = st.floats(-1, 1, width=32)
    rows = st.lists(st.lists(cosine, min_size=texts, max_size=texts), min_size=masks, max_size=masks)
    targets = st.lists(st.integers(0, masks - 1), min_size=texts, max_size=texts)
    return draw(rows), draw(rows), draw(targets)


@pytest.mark.slow
@given(problems())
def test_scores_equal_a_plain_loop_over_the_definition(problem):
    context, masked, targets = problem
    c = [[max(value, MIN_COSINE) for value in row] for row in context]
    m = [[max(value, MIN_COSINE) for value in row] for row in masked]
    got = score_candidates(context, masked, targets=targets, min_cosine=MIN_COSINE)
    for t, i in enumerate(targets):
        others = [k for k in range(len(c)) if k != i]
        assert got.correctness[t] == m[i][t]
        if not others:
            assert got.uniqueness is None
            continue
        rival = max(others, key=lambda k: c[k][t] * m[k][t])
        assert got.uniqueness[t] == c[i][t] / max(c[k][t] for k in others)
        assert got.distinctiveness[t] == c[i][t] * m[i][t] / (c[rival][t] * m[rival][t])
        assert got.rival[t] == rival
