"""Faults of what a GPU records: same bits by launches, and no image is blamed for what a launch does not give too."""

from unittest import mock

import pytest
import torch

from pseudoris.schemas.shard import Shard
from pseudoris.workers.captions import CocaCaptioner, row_kernels
from pseudoris.workers.captions.recorded_step import RecordedStep
from tests.builders.coca import narrow_config
from tests.oracles.pretended_gpu import pretended_gpu
from tests.oracles.pretended_graph import PretendedGraph
from tests.workers.captions.test_captioner import shard_image

# Of random logits a nucleus is wide, and a wide row, or one of NaN, waits 16 steps for each token. Here rows are few.
FEW_STEPS = (
    "captions.decoder=static",
    "captions.max_length=6",
    "captions.sampling.top_p=[]",
    "captions.has_masked_crop=false",
    "captions.context_scales=[1.0]",
)
LAUNCHED = "steps are launched one by one from now on, which changes no result"


@pytest.fixture(autouse=True)
def recording():
    yield
    RecordedStep.are_recorded = True


def counting():
    count = torch.zeros(1)
    return count, RecordedStep(lambda: count.add_(1.0), recordings=1)


class Refused:
    """A recording that a driver refuses before it computes anything."""

    def __init__(self, graph, pool):
        pass

    def __enter__(self):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    def __exit__(self, *_):
        pass


def test_a_step_whose_recording_is_refused_is_launched_with_one_warning(caplog):
    with pretended_gpu(), mock.patch.object(torch.cuda, "graph", Refused):
        counts, steps = zip(counting(), counting(), strict=True)
        for step in steps * 3:
            step()
    assert [float(count) for count in counts] == [3.0, 3.0]
    assert caplog.text.count(LAUNCHED) == 1


def test_a_recording_that_breaks_the_device_ends_the_process_and_one_without_memory_is_tried_later(caplog):
    broken = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    for where, error in (("synchronize", broken), ("graph", torch.OutOfMemoryError("CUDA out of memory"))):
        with pretended_gpu(), mock.patch.object(torch.cuda, "graph", Refused):
            _, step = counting()
            step()
            with mock.patch.object(torch.cuda, where, side_effect=error), pytest.raises(type(error)):
                step()
    assert caplog.text == ""


def test_an_error_of_the_step_itself_is_raised_and_no_recordings_fault():
    def step():
        if fails:
            raise RuntimeError("PassManager::run failed")

    fails = []
    with pretended_gpu():
        recorded = RecordedStep(step, recordings=1)
        recorded()
        fails.append(True)
        with pytest.raises(RuntimeError, match="PassManager"):
            recorded()


class Sick(PretendedGraph):
    """A graph whose replays write NaN, once a card falls sick."""

    is_sick = False

    def replay(self):
        super().replay()
        for function, args, *_ in self._calls if self.is_sick else ():
            if function.__name__ == "add_" and args[0].is_floating_point():
                args[0].fill_(torch.nan)


@pytest.fixture
def captioned(tmp_path, monkeypatch):
    """Return the images of a shard, after a captioner whose card falls sick as soon as it is built."""

    def captioned(*, is_sick, num_images=2):
        config = narrow_config(tmp_path, *FEW_STEPS)
        with pretended_gpu(), mock.patch.object(torch.cuda, "CUDAGraph", Sick):
            captioner = CocaCaptioner(config.captions, config.compute)
            monkeypatch.setattr(Sick, "is_sick", is_sick)
            return captioner(Shard(0, 0, tuple(shard_image(n, num_masks=1) for n in range(num_images)))).images

    return captioned


@pytest.mark.slow
def test_a_replay_that_gives_nan_is_launched_again_and_blames_no_image(captioned, caplog):
    expected = captioned(is_sick=False)
    assert captioned(is_sick=True) == expected
    assert caplog.text.count(LAUNCHED) == 1
    assert not any(image.failure for image in expected)


@pytest.mark.slow
def test_nan_that_comes_again_when_it_is_launched_is_the_images(captioned, monkeypatch, caplog):
    def attend(*given):
        return row_kernels.plain_attend_newest(*given) * (torch.nan if Sick.is_sick else 1.0)

    row_kernels.attend_newest.register_kernel("cpu", attend)
    try:
        (image,) = captioned(is_sick=True, num_images=1)
    finally:
        row_kernels.attend_newest.register_kernel("cpu", row_kernels.plain_attend_newest)
    assert image.failure.reason == "not_finite"
    assert LAUNCHED not in caplog.text
