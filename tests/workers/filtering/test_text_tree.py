"""Tiles hold the prefixes of their texts, each once, and no more than they have room for."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.workers.filtering.text_tower import cut_into_tiles

TEXTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=30)


@given(TEXTS, st.integers(6, 40))
def test_each_text_is_read_along_the_path_to_its_end_in_one_tile(texts, num_nodes):
    read = {}
    for tile in cut_into_tiles(texts, num_nodes):
        assert {len(column) for column in (tile.tokens, tile.depths, tile.paths)} == {num_nodes}
        assert (np.diff(tile.depths) >= 0).all()
        for number, end in zip(tile.texts.tolist(), tile.ends.tolist(), strict=True):
            assert number not in read
            read[number] = tile.tokens[tile.paths[end, : tile.depths[end] + 1]].tolist()
    assert [read[number] for number in range(len(texts))] == texts


@given(TEXTS)
def test_a_tile_has_a_node_for_each_prefix_of_its_texts(texts):
    (tile,) = cut_into_tiles(texts, 200)
    assert tile.num_used == len({tuple(text[:end]) for text in texts for end in range(1, len(text) + 1)})


def test_without_texts_there_is_no_tile():
    assert list(cut_into_tiles([], 8)) == []
