"""The short form of `make soak`: three minutes of faults at random, and the same proof at the end."""

from __future__ import annotations

import random
import time

import pytest

from tests.faults.soak import soak

pytestmark = [pytest.mark.ray, pytest.mark.slow]

MINUTES = 3
# A run of so many is through within the minutes, faults and all, and the next begins: what is left at the end is short.
NUM_IMAGES = 300


def test_three_minutes_of_faults_at_random_lose_nothing_and_double_nothing(stub_engines, s3_credentials, tmp_path):
    seed = random.SystemRandom().randrange(10**6)
    began = time.monotonic()
    state = soak(MINUTES, NUM_IMAGES, seed, tmp_path, lambda text: print(f"{time.monotonic() - began:6.1f} s {text}"))
    assert state.runs >= 1
    assert sum(state.struck.values()) >= 5
