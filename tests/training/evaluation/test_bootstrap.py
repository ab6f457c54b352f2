import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.training.evaluation.bootstrap import RESAMPLES, ImageBootstrap


def images(right, total=10):
    return [{"a": (float(r), float(total)), "b": (float(r) - 1, float(total))} for r in right]


def plain(sums, name, *, seed=0):
    """Return the figure of each resample, as its definition has it."""
    table = np.array([each.get(name, (0.0, 0.0)) for each in sums])
    draws = np.random.default_rng(seed).integers(len(sums), size=(RESAMPLES, len(sums)))
    top, bottom = table[draws].sum(1).T
    return np.array([t / b if b else np.nan for t, b in zip(top, bottom, strict=True)])


# All resamples of a few images are one block. Of 2,200 they are two.
@pytest.mark.parametrize("num_images", [37, 2_200])
def test_the_seed_decides_the_resamples(num_images):
    sums = images(np.random.default_rng(2).random(num_images))
    found = {seed: ImageBootstrap(sums, seed=seed).ratio("a") for seed in (0, 3)}
    assert found[0] != found[3]
    for seed, estimate in found.items():
        due = np.quantile(plain(sums, "a", seed=seed), (0.025, 0.975))
        assert (estimate.low, estimate.high) == pytest.approx(tuple(due))


PAIR = st.tuples(st.integers(0, 9), st.integers(0, 9)).map(lambda pair: (float(min(pair)), float(max(pair))))
IMAGE = st.dictionaries(st.sampled_from("abc"), PAIR)


@pytest.mark.slow
@given(st.lists(IMAGE, min_size=1, max_size=12).filter(lambda each: any(each)))
def test_value_and_interval_are_those_of_the_definition(sums):
    bootstrap = ImageBootstrap(sums)
    for name in bootstrap.names:
        top, bottom = bootstrap.total(name)
        assert (top, bottom) == tuple(np.sum([each.get(name, (0.0, 0.0)) for each in sums], axis=0))
        found, resampled = bootstrap.ratio(name), plain(sums, name)
        counted = resampled[np.isfinite(resampled)]
        due = np.quantile(counted, (0.025, 0.975)) if len(counted) else (np.nan, np.nan)
        assert (found.low, found.high) == pytest.approx(tuple(due), nan_ok=True)
        assert found.value == pytest.approx(top / bottom if bottom else np.nan, nan_ok=True)
