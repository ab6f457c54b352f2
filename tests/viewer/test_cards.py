import pytest

from tests.viewer.builders import make_expression, make_image, make_mask
from viewer.cards import image_card, mask_colour, rejection


def row_of(expression, *, tau=1.0):
    mask = image_card(make_image(masks=[make_mask(expressions=[expression])]), tau=tau).masks[0]
    return (*mask.kept, *mask.rejected)[0]


def test_kept_and_rejected_are_apart_and_best_first():
    expressions = [
        make_expression("one", distinctiveness=1.1),
        make_expression("two", distinctiveness=0.5, kept=False),
        make_expression("three", distinctiveness=1.9),
        make_expression("four", distinctiveness=0.9, kept=False),
    ]
    mask = image_card(make_image(masks=[make_mask(expressions=expressions)]), tau=1.0).masks[0]

    assert [row.before for row in mask.kept] == ["three", "one"]
    assert [row.before for row in mask.rejected] == ["four", "two"]


def test_correctness_ranks_where_a_mask_is_alone():
    lone = {"distinctiveness": None, "uniqueness": None, "rival_index": None}
    expressions = [make_expression("one", correctness=0.1, **lone), make_expression("two", correctness=0.3, **lone)]
    mask = image_card(make_image(masks=[make_mask(expressions=expressions)]), tau=1.0).masks[0]

    assert [row.before for row in mask.kept] == ["two", "one"]
    assert mask.kept[0].scores == ("–", "0.30", "–")
    assert mask.kept[0].meter_percent is None


@pytest.mark.parametrize(
    ("text", "head", "parts"),
    [
        ("the red circle on top", "circle", ("the red ", "circle", " on top")),
        ("semicircle and circle", "circle", ("semicircle and ", "circle", "")),
        ("left", None, ("left", "", "")),
        ("a cat", "dog", ("a cat", "", "")),
        ("a (b) c", "(b)", ("a ", "(b)", " c")),
    ],
)
def test_the_head_noun_is_cut_out_of_its_expression(text, head, parts):
    row = row_of(make_expression(text, head_noun=head))

    assert (row.before, row.head, row.after) == parts


@pytest.mark.parametrize(
    ("distinctiveness", "tau", "percent"), [(1.0, 1.0, 50.0), (0.5, 1.0, 25.0), (9.0, 1.0, 100.0), (1.2, 1.2, 50.0)]
)
def test_tau_stands_in_the_middle_of_the_meter(distinctiveness, tau, percent):
    assert row_of(make_expression(distinctiveness=distinctiveness), tau=tau).meter_percent == percent


def test_a_tau_of_zero_has_a_meter_too():
    assert row_of(make_expression(distinctiveness=1.0), tau=0.0).meter_percent == 50.0


@pytest.mark.parametrize(
    ("distinctiveness", "rival", "words"),
    [
        (0.8, 3, "fits mask 3 better"),
        (1.0, 3, "fits mask 3 as well"),
        (1.1, 3, "ahead of mask 3, but 0.1 short of τ = 1.2"),
        (None, None, "not scored"),
    ],
)
def test_a_rejection_names_the_rival_and_how_far_it_got(distinctiveness, rival, words):
    assert rejection(distinctiveness, rival, tau=1.2) == words


def test_a_damaged_mask_has_no_outline_and_the_card_stands():
    card = image_card(make_image(masks=[make_mask(0, counts="zzz"), make_mask(1)]), tau=1.0)

    assert card.masks[0].outline is None
    assert card.masks[1].outline is not None


def test_an_image_that_cannot_be_read_has_a_card_without_a_picture():
    assert image_card(make_image(data=b"gone"), tau=1.0).thumbnail is None


def test_a_key_is_shown_as_its_file_name_reads():
    assert image_card(make_image("ordner/gr%C3%BCn%20%231.png"), tau=1.0).name == "ordner/grün #1.png"


def test_the_first_36_masks_have_colours_of_their_own():
    assert len({mask_colour(order) for order in range(36)}) == 36
