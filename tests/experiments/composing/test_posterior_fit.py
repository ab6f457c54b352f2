"""Weights are fitted to what is true of each mask, and say so where a score tells and where it does not."""

from dataclasses import replace

from experiments.composing.posterior_fit import fitted_weights
from pseudoris.schemas.ids import mask_id
from pseudoris.schemas.shard import CaptionSample, ExpressionRecord
from pseudoris.synthworld.attributes import Attributes
from pseudoris.synthworld.scenes import Scene, SceneObject
from recipes.scene_shards import scene_image, scene_shard

DRAW = CaptionSample("masked", "top_p", None, 0.5, -1.0)


def item(category, colour, x):
    return SceneObject(Attributes(category, colour, "plain", "large"), (x, 96.0), 24.0, 0.0, (0, 0, 0))


SCENE = Scene(0, 0, (item("circle", "orange", 40.0), item("star", "blue", 96.0), item("heart", "orange", 150.0)))
TRUE = {0: ("circle", "orange"), 1: ("star", "blue"), 2: ("heart", "orange")}


def image(*said, correctness):
    """The scene with its true masks; `said` are (object, text, noun, draws), correctness by whether a noun is true."""
    plain = scene_shard([scene_image(SCENE)], with_true_masks=True).images[0]
    masks = tuple(replace(mask, predicted_iou=0.9, stability_score=0.9) for mask in plain.masks)
    expressions = tuple(
        ExpressionRecord(
            (masks[number].mask_id,),
            text,
            (DRAW,) * draws,
            head_noun=noun,
            correctness=correctness[noun == TRUE[number][0]],
        )
        for number, text, noun, draws in said
    )
    return replace(plain, masks=masks, expressions=expressions)


def test_correctness_weighs_where_it_tells_the_noun_and_nothing_where_it_misleads():
    # The wrong noun is drawn as often as the true one, and so is a wrong colour.
    said = [
        (number, f"a {colour} {noun}", noun, 5)
        for number, (true, _) in TRUE.items()
        for noun in (true, "moon")
        for colour in ("orange", "blue")
    ]
    telling = fitted_weights([SCENE] * 4, [image(*said, correctness={True: 0.8, False: 0.3})] * 4, "draws")
    misleading = fitted_weights([SCENE] * 4, [image(*said, correctness={True: 0.3, False: 0.8})] * 4, "draws")
    assert telling.noun_correctness > 1.0
    assert misleading.noun_correctness == 0.0


def test_the_share_of_a_word_against_what_replaces_it_weighs():
    said = []
    for number, (noun, colour) in TRUE.items():
        other = "blue" if colour == "orange" else "orange"
        said += [(number, f"a {colour} {noun}", noun, 8), (number, f"a {other} {noun}", noun, 2)]
    found = fitted_weights([SCENE] * 4, [image(*said, correctness={True: 0.8, False: 0.3})] * 4, "draws")
    assert found.word_against > 0.5
    assert found.counts == "draws"


def test_a_part_of_an_object_is_learnt_to_be_none():
    said = [(number, f"a {colour} {noun}", noun, 5) for number, (noun, colour) in TRUE.items()]
    said += [(0, "a blue circle", "circle", 1), (1, "a moon", "moon", 1)]
    whole = image(*said, correctness={True: 0.8, False: 0.3})
    # A second mask of the first object's pixels: one of the two at most is its.
    first = whole.masks[0]
    part = replace(first, mask_id=mask_id(whole.image_id, 9), index=9)
    found = fitted_weights([SCENE] * 4, [replace(whole, masks=(*whole.masks, part))] * 4, "draws")
    assert found.object_overlap < -1.0
