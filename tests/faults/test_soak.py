"""Short forms of `make soak`: some minutes of faults at random, and the same proof at the end."""

from __future__ import annotations

import random
import time

import pytest

from tests.faults.soak import soak

pytestmark = [pytest.mark.ray, pytest.mark.slow]


# A run of so many is through within the minutes, faults and all, and the next begins: what is left at the end is short.
@pytest.mark.parametrize(
    ("minutes", "num_images", "min_faults"), [(1, 100, 3), pytest.param(3, 300, 5, marks=pytest.mark.long)]
)
def test_minutes_of_faults_at_random_lose_nothing_and_double_nothing(
    stub_engines, s3_credentials, tmp_path, minutes, num_images, min_faults
):
    seed = random.SystemRandom().randrange(10**6)
    began = time.monotonic()
    state = soak(minutes, num_images, seed, tmp_path, lambda text: print(f"{time.monotonic() - began:6.1f} s {text}"))
    assert state.runs >= 1
    assert sum(state.struck.values()) >= min_faults
