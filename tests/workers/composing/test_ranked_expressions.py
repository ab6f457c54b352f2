"""What is said where one probability decides, and in which words."""

from dataclasses import replace

import numpy as np
import pytest

from pseudoris.primitives import place_phrases as phrases
from pseudoris.primitives.head_nouns import head_noun
from pseudoris.primitives.noun_phrases import noun_phrase
from pseudoris.schemas.fitted import WeightLine, line_weights
from pseudoris.schemas.ids import mask_id
from pseudoris.schemas.shard import SOURCE_COMPOSER
from pseudoris.schemas.stage_settings import ComposingConfig
from pseudoris.workers.composing.composer import Composer, ranked_expressions
from pseudoris.workers.composing.likelihood import likelihood_of
from tests.builders.fitted import POSTERIOR
from tests.workers.composing.builders import IMAGE_ID, composed, composer, make_image, texts

CIRCLE, STAR = {"a photo of a circle": 40}, {"a photo of a star": 40}
RED, BLUE = {"a red circle": 20, "a circle": 20}, {"a blue circle": 20, "a circle": 20}
# Two circles side by side, a star below the right one.
TWO = make_image(((20, 60), CIRCLE), ((80, 30), CIRCLE), ((80, 80), STAR))
ALL = {"max_per_mask": 20}


def weighed(image, target=None, **weights):
    settings = {key: weights.pop(key) for key in ("kinds", "max_per_mask") if key in weights}
    return texts(image, target, **{**ALL, **settings}, posterior={"max_per_form": 9, "unseen": 0.0, **weights})


def sureness(image, target):
    """How likely the composer finds each expression of a mask, however unlikely."""
    every = {"max_per_form": 99, "min_first": 0.0, "min_further": 0.0, "unseen": 0.0}
    found = composed(image, max_per_mask=999, posterior=every)
    return {each.text: each.confidence for each in found if each.target_mask_ids == (mask_id(IMAGE_ID, target),)}


def test_two_masks_of_one_description_are_told_apart_by_place():
    assert weighed(TWO, 0, kinds=["position"]) == {
        "the leftmost circle",
        "the bottommost circle",
        "the circle on the left",
        "the left of the two circles",
        "the lower of the two circles",
    }
    assert "the circle above the star" in weighed(TWO, 1)


def test_every_expression_says_how_likely_it_is_and_is_otherwise_as_any_composed_one():
    found = composed(TWO, kinds=["position", "relation", "group", "none"])
    assert found
    for each in found:
        assert (each.source, each.kept, each.weight, each.samples) == (SOURCE_COMPOSER, True, 1.0, ())
        assert each.confidence is not None
        assert 0.63 < each.confidence < 1.0
        assert (each.uniqueness, each.listener, each.rank) == (None,) * 3
        assert each.rival_mask_id is None or each.kind == "none"


def test_the_first_of_a_mask_needs_less_than_a_further_one():
    doubtful = {"a photo of a circle": 30, "a photo of a moon": 10}
    image = make_image(((20, 30), doubtful), ((80, 30), CIRCLE), ((50, 90), STAR))
    sure = [each for each in composed(image, **ALL, posterior={"min_first": 0.6, "min_further": 0.9})]
    of_doubtful = [each for each in sure if each.target_mask_ids == (mask_id(IMAGE_ID, 0),)]
    assert len(of_doubtful) == 1
    assert 0.6 < (of_doubtful[0].confidence or 0) < 0.9
    assert len([each for each in sure if each.target_mask_ids == (mask_id(IMAGE_ID, 1),)]) > 1
    assert weighed(image, 0, min_first=0.9) == set()


def test_a_mask_that_may_be_a_rival_makes_it_less_likely_and_one_that_a_place_excludes_does_not():
    doubtful = {"a photo of a circle": 10, "a photo of a moon": 30}
    far = make_image(((20, 30), CIRCLE), ((60, 30), CIRCLE), ((90, 30), doubtful))
    assert sureness(far, 0)["the leftmost circle"] > 0.9
    # The second is the rightmost unless the third is one, which a quarter of what was drawn of it says.
    likely = sureness(far, 1)["the rightmost circle"]
    assert likely == pytest.approx(0.75 * sureness(far, 0)["the leftmost circle"], abs=0.1)


def test_a_quality_tells_apart_what_the_noun_does_not():
    # One close above the other, both left of the star: only their colours tell them apart.
    image = make_image(((20, 45), RED), ((20, 55), BLUE), ((80, 50), STAR))
    found = weighed(image, 0, kinds=["relation"], min_first=0.3)
    assert "the red circle to the left of the star" in found
    likely = sureness(image, 0)
    assert likely["the red circle to the left of the star"] > 10 * likely["the circle to the left of the star"]


def test_forms_change_from_mask_to_mask_where_more_are_sure_than_a_mask_may_have():
    view = likelihood_of(TWO, ComposingConfig(max_per_mask=1), POSTERIOR.model_copy(update={"unseen": 0.0}))
    first = [ranked_expressions(view, 0, f"mask-{tail}")[0].text for tail in range(32)]
    assert len(set(first)) > 2
    assert first == [ranked_expressions(view, 0, f"mask-{tail}")[0].text for tail in range(32)]


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_mask_has_at_most_so_many_and_of_one_form_at_most_so_many(most):
    found = [
        each.text
        for each in composed(TWO, max_per_mask=most, posterior={"unseen": 0.0, "max_per_form": 1})
        if each.target_mask_ids == (mask_id(IMAGE_ID, 0),)
    ]
    assert len(found) == most
    assert sum("most" in text for text in found) <= 1


def test_words_alone_are_said_where_they_suffice_and_an_end_where_there_is_a_row():
    kinds = ["attribute", "position"]
    found = weighed(TWO, 2, kinds=kinds)
    # Nothing else is a star: it has no ends, for there is no row.
    assert found == {"the star", "the star on the right", "the star at the bottom"}
    assert not any(each.startswith("the circle") and "on the" not in each for each in weighed(TWO, 0, kinds=kinds))
    assert {each.kind for each in composed(TWO, kinds=kinds, **ALL) if each.text == "the star"} == {"attribute"}
    alone = make_image(((20, 30), CIRCLE))
    assert weighed(alone, kinds=kinds) == {"the circle", "the circle on the left", "the circle at the top"}


def test_ranks_need_a_row_that_is_told_apart():
    row = make_image(((10, 50), CIRCLE), ((45, 50), CIRCLE), ((90, 50), CIRCLE))
    assert "the second circle from the left" in weighed(row, 1, kinds=["position"])
    close = make_image(((10, 50), CIRCLE), ((45, 50), CIRCLE), ((48, 50), CIRCLE))
    assert not any("second" in text for text in weighed(close, kinds=["position"]))


def test_probabilities_need_a_listener():
    with pytest.raises(ValueError, match=r"no caption_score from captions\.listening"):
        composed(TWO, posterior={"counts": "probability"})


def test_an_image_without_masks_or_draws_gets_nothing():
    kinds = ["position", "relation", "group", "none"]
    assert composed(make_image(), kinds=kinds) == []
    assert composed(make_image(((20, 30), {}), ((80, 30), {})), kinds=kinds) == []


def test_what_was_composed_before_is_replaced():
    more, fewer = (composer(kinds=kinds) for kinds in (("attribute", "position"), ("relation",)))
    assert len(more(TWO).expressions) > len(fewer(TWO).expressions) > len(TWO.expressions)
    assert more(more(TWO)) == more(TWO)
    assert fewer(more(TWO)) == fewer(TWO)


def test_each_expression_weighs_what_the_line_makes_of_its_probability():
    config, line = ComposingConfig(kinds=("position",)), WeightLine(bias=0.5, slope=1.5)
    plain, weighing = (
        Composer(config, POSTERIOR, each)(TWO).expressions[len(TWO.expressions) :] for each in (None, line)
    )
    assert [replace(each, weight=1.0) for each in weighing] == list(plain)
    due = line_weights(line, np.array([each.confidence for each in plain]))
    assert [each.weight for each in weighing] == due.tolist()


def phrase(caption):
    return noun_phrase(caption, head_noun(caption))


def test_templates_speak_of_the_head():
    man, star = phrase("a photo of a man in a red shirt"), phrase("a star")
    assert phrases.extreme("left", man) == "the leftmost man in a red shirt"
    assert phrases.extreme_of("top", 2, man) == "the upper of the two men in red shirts"
    assert phrases.extreme_of("right", 3, star) == "the rightmost of the three stars"
    assert phrases.extreme_of("right", 9, star) is None
    assert phrases.ordinal("left", 2, man) == "the second man in a red shirt from the left"
    assert phrases.ordinal("left", 9, man) is None
    assert phrases.at_side("bottom", man) == "the man in a red shirt at the bottom"
    assert phrases.group(2, man) == "the two men in red shirts"
    assert phrases.group(12, star) == "all stars"


def test_a_place_is_not_said_of_what_the_object_is_with():
    woman = phrase("a woman with a dog in her arms")
    assert phrases.at_side("left", woman) is None
    assert phrases.related("left", woman, phrase("a cat")) is None
    assert phrases.extreme("left", woman) == "the leftmost woman with a dog in her arms"


def test_stuff_is_not_counted_and_pairs_are():
    snow, jeans = phrase("fresh snow"), phrase("blue jeans")
    assert phrases.definite(snow) == "the fresh snow"
    assert phrases.at_side("left", snow) == "the fresh snow on the left"
    nothing = (
        phrases.extreme("left", snow),
        phrases.extreme_of("left", 2, snow),
        phrases.group(2, snow),
    )
    assert nothing == (None, None, None)
    assert phrases.ordinal("left", 2, snow) is None
    assert phrases.definite(jeans) == "the blue jeans"
    assert phrases.extreme("left", jeans) == "the leftmost blue pair of jeans"
    assert phrases.group(2, jeans) == "the two blue pairs of jeans"


@pytest.mark.parametrize(
    ("caption", "several"),
    [
        ("a clerk wearing a hat on his head", "clerks wearing hats on their heads"),
        ("a clerk in a pair of jeans", "clerks in pairs of jeans"),
        ("a clerk in a blue shorts", "clerks in blue shorts"),
        ("a clerk holding a cup in her hand", "clerks holding cups in their hands"),
        ("a women in a red shirt", "women in red shirts"),
    ],
)
def test_what_several_wear_and_hold_is_theirs(caption, several):
    assert phrases.group(2, phrase(caption)) == f"the two {several}"


@pytest.mark.parametrize(
    ("noun", "plural"),
    [
        *(("cross", "crosses"), ("fish", "fish"), ("boy", "boys"), ("lady", "ladies"), ("woman", "women")),
        *(("person", "people"), ("bench", "benches"), ("bus", "buses"), ("fire truck", "fire trucks")),
        ("octopus", "octopuses"),
    ],
)
def test_plurals(noun, plural):
    assert phrases.group(2, noun_phrase(noun, noun)) == f"the two {plural}"
