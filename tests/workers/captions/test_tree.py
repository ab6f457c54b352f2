import numpy as np

from workers.captions.tree import crop_slots, extend


def ints(*values):
    return np.array(values, dtype=np.int64)


def needs(*rows):
    return np.array(rows, dtype=np.bool_)


def test_equal_prefixes_become_one_node_that_serves_all_their_crops():
    frontier = extend(None, ints(0, 0, 0), ints(5, 3, 5), needs([1, 0, 0], [0, 1, 0], [1, 0, 1]))
    assert frontier.tokens.tolist() == [3, 5]
    assert frontier.row_prefix.tolist() == [1, 0, 1]
    assert list(zip(frontier.pair_crop.tolist(), frontier.pair_prefix.tolist(), strict=True)) == [
        (0, 1),
        (1, 0),
        (2, 1),
    ]
    assert frontier.pair_of.tolist() == [[-1, 1, -1], [0, -1, 2]]


def test_the_same_token_after_other_prefixes_is_another_node():
    root = extend(None, ints(0, 0), ints(1, 2), needs([1], [1]))
    frontier = extend(root, root.row_prefix, ints(7, 7), needs([1], [1]))
    assert frontier.num_prefixes == 2
    assert frontier.parents.tolist() == [0, 1]


def test_a_pair_finds_the_pair_of_its_parent_prefix_and_its_crop():
    root = extend(None, ints(0, 0), ints(1, 2), needs([1, 1], [1, 1]))
    frontier = extend(root, ints(1, 1, 0), ints(4, 5, 4), needs([1, 1], [0, 1], [1, 0]))
    parents = [(root.pair_crop[p], root.tokens[root.pair_prefix[p]]) for p in frontier.pair_parent]
    expected = zip(frontier.pair_crop, root.tokens[frontier.parents[frontier.pair_prefix]], strict=True)
    assert parents == list(expected)
    assert frontier.num_pairs == 4


def test_slots_give_every_crop_a_line_as_long_as_the_longest():
    slots, rows_a_crop = crop_slots(ints(0, 0, 2, 2, 2), 4)
    assert rows_a_crop == 3
    assert slots.tolist() == [0, 1, 6, 7, 8]
