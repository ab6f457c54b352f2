"""The GPU's utilisation is read from what its driver's tool writes."""

import pytest
import torch

from benchmarks.gpu_report import Utilisation, mean_share


def test_the_share_is_the_mean_of_the_samples():
    assert mean_share("10\n30\n") == pytest.approx(0.2)


def test_lines_that_are_no_number_do_not_count():
    assert mean_share("[N/A]\n40\n") == pytest.approx(0.4)
    assert mean_share("[N/A]\n") is None


def test_on_a_cpu_there_is_nothing_to_watch():
    with Utilisation(torch.device("cpu")) as used:
        pass
    assert used.share is None
