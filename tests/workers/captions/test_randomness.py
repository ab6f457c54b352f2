import numpy as np
import pytest

from workers.captions.randomness import DrawKey, draws

KEY = DrawKey(seed=0, image_id="2c26b46b68ffc68f", mask_index=3, crop="masked", decoder="top_k=5")


def test_a_key_gives_the_draws_that_it_always_gave():
    golden = [0.7735894092916366, 0.41775520553997136, 0.8508669253851227]
    assert draws([KEY], 3).tolist() == [golden]


def test_draws_lie_in_the_unit_interval_and_look_uniform():
    keys = [DrawKey(7, "ff", mask, "context_1.2", "top_p=0.4") for mask in range(500)]
    table = draws(keys, 30)
    assert table.shape == (500, 30)
    assert table.min() >= 0
    assert table.max() < 1
    counts, _ = np.histogram(table, bins=10, range=(0, 1))
    # 15,000 draws: a tenth has a standard deviation of 37.
    assert abs(counts - 1500).max() < 5 * 37


@pytest.mark.parametrize(
    "other",
    [
        DrawKey(1, KEY.image_id, 3, "masked", "top_k=5"),
        DrawKey(0, "2c26b46b68ffc68e", 3, "masked", "top_k=5"),
        DrawKey(0, KEY.image_id, 4, "masked", "top_k=5"),
        DrawKey(0, KEY.image_id, 3, "context_1.0", "top_k=5"),
        DrawKey(0, KEY.image_id, 3, "masked", "top_k=7"),
    ],
    ids=["seed", "image", "mask", "crop", "decoder"],
)
def test_every_part_of_the_key_changes_every_draw(other):
    assert not np.isin(draws([other], 30), draws([KEY], 30)).any()


def test_a_draw_depends_neither_on_its_neighbours_nor_on_how_many_follow():
    other = DrawKey(5, "aa", 0, "masked", "top_k=5")
    assert np.array_equal(draws([other, KEY], 30)[1, :9], draws([KEY], 9)[0])
