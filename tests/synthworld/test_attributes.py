from itertools import product

from pseudoris.synthworld.attributes import CATEGORIES, COLOURS, PARTS, PATTERNS, SIZES, is_held_out


def test_the_world_is_as_rich_as_promised():
    assert len(CATEGORIES) == 20
    assert len(COLOURS) == 8
    assert (len(PATTERNS), len(SIZES), len(PARTS)) == (4, 2, 3)


def test_at_least_fifteen_percent_of_the_pairs_are_held_out():
    pairs = list(product(CATEGORIES, COLOURS))
    assert sum(is_held_out(*pair) for pair in pairs) / len(pairs) >= 0.15


def test_every_category_and_colour_is_seen_in_other_pairs():
    for category in CATEGORIES:
        assert sum(not is_held_out(category, colour) for colour in COLOURS) >= 4
    for colour in COLOURS:
        assert sum(not is_held_out(category, colour) for category in CATEGORIES) >= 10


def test_no_word_has_two_meanings():
    words = [*CATEGORIES, *COLOURS, *PATTERNS, *SIZES, *PARTS]
    assert len(set(words)) == len(words)
