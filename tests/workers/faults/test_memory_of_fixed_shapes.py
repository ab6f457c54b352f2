"""Memory that runs out while captions are decoded in fixed shapes: in a step, in a recording, once and for good."""

import gc
import itertools
import logging
from unittest import mock

import pytest
import torch

from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.measures import CACHE_BYTES, collecting
from pseudoris.schemas.shard import Shard
from pseudoris.workers.captions import row_kernels
from pseudoris.workers.captions.cached_towers import CachedCocaTowers
from pseudoris.workers.faults import tolerant_stages
from pseudoris.workers.faults.quarantine import is_out_of_memory
from pseudoris.workers.faults.subprocess_stages import ChildOutOfMemoryError, SubprocessStages
from pseudoris.workers.faults.tolerant_stages import FaultTolerantStages
from pseudoris.workers.stages import stages_named
from tests.builders.coca import narrow_config
from tests.oracles.living_tensors import LivingTensors
from tests.oracles.pretended_gpu import pretended_gpu
from tests.workers.captions.test_captioner import shard_image

SHARD = Shard(3, 0, tuple(shard_image(position, num_masks=2) for position in range(3)))
STATIC = ("captions.decoder=static", "captions.max_length=6")
# Of random logits each nucleus is wide, and wide rows wait.
NARROW = ("captions.sampling.top_p=[]",)
ON_CPU = (*STATIC, "compute.device=cpu", "placement.fused.num_gpus=0")


@pytest.fixture
def attend():
    """Return what puts a kernel in place of attention; its own is put back."""
    yield lambda kernel: row_kernels.attend_newest.register_kernel("cpu", kernel)
    row_kernels.attend_newest.register_kernel("cpu", row_kernels.plain_attend_newest)


@pytest.fixture(autouse=True)
def silence():
    """A record of the log that pytest keeps would keep the error, and all that its frames hold."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


class Here(SubprocessStages):
    """Stages that load anew in this process, in place of a child's: this process has the kernels and the GPU.

    It notes how much the process holds as they get their shard.
    """

    weigh = staticmethod(lambda: 0)
    held: tuple[int, ...] = ()

    def __init__(self, names, config):
        self._kinds, self._settings = stages_named(names), config

    def __exit__(self, *_):
        gc.collect()

    def __call__(self, shard):
        type(self).held = (*self.held, self.weigh())
        try:
            for stage in [kind.build(self._settings) for kind in self._kinds]:
                shard = stage(shard)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            told = str(error)
        else:
            return shard
        raise ChildOutOfMemoryError(told)


@pytest.fixture
def fresh(monkeypatch):
    """Return the stages that are built anew for a shard, of which each first calls `fresh.before`."""

    class Fresh(Here):
        before = staticmethod(lambda: None)

        def __call__(self, shard):
            type(self).before()
            return super().__call__(shard)

    monkeypatch.setattr(tolerant_stages, "SubprocessStages", Fresh)
    return Fresh


@pytest.mark.slow
def test_memory_that_runs_out_in_a_step_frees_the_caches_and_fresh_stages_give_the_same_bits(tmp_path, attend, fresh):
    config = narrow_config(tmp_path, *ON_CPU, *NARROW, f"captions.cache_bytes={2**28}")
    expected = FaultTolerantStages(("caption",), config)(SHARD).images
    stages, calls, most = FaultTolerantStages(("caption",), config), [], []
    living = LivingTensors()
    fresh.weigh = living.bytes
    fresh.before = lambda: attend(row_kernels.plain_attend_newest)

    def full(*given):
        calls.append(len(given[0]))
        if len(calls) > 9:
            most.append(living.bytes())
            raise torch.OutOfMemoryError("CUDA out of memory")
        return row_kernels.plain_attend_newest(*given)

    attend(full)
    done = stages(SHARD)
    assert done.images == expected
    assert done.degraded == {}
    # Three images, then one, whose caches are smaller: each time the caches are there again.
    three, one = most
    assert 2**20 < one < three - 2**20
    (held,) = fresh.held
    assert held < 2**20


@pytest.mark.slow
def test_memory_that_runs_out_in_a_recording_frees_the_caches_and_fresh_stages_give_the_same_bits(tmp_path, fresh):
    config = narrow_config(tmp_path, *STATIC, *NARROW, f"captions.cache_bytes={2**25}")
    tries = []

    def full(*_, **__):
        tries.append(living.bytes())
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pretended_gpu():
        expected = FaultTolerantStages(("caption",), config)(SHARD).images
        stages = FaultTolerantStages(("caption",), config)
        living = LivingTensors()
        refused = mock.patch.object(torch.cuda, "graph", full)
        fresh.weigh, fresh.before = living.bytes, refused.stop
        refused.start()
        done = stages(SHARD)
    assert done.images == expected
    assert done.degraded == {}
    three, one = tries[0], tries[-1]
    assert three > 2**21
    assert 2**17 < one < three - 2**20
    (held,) = fresh.held
    assert held < 2**18


def lowered(config, attend, monkeypatch, *, most_rows):
    """Return the shard of a card whose steps have room for so many rows, and the bytes that each try asked for."""

    def fitting(*given):
        if len(given[0]) > most_rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return row_kernels.plain_attend_newest(*given)

    monkeypatch.setattr(tolerant_stages, "SubprocessStages", Here)
    asked = []
    real = Here.__call__

    def weighed(self, shard):
        with collecting() as measures:
            try:
                return real(self, shard)
            finally:
                asked.append(max(measures[CACHE_BYTES, ""]))

    monkeypatch.setattr(Here, "__call__", weighed)
    attend(fitting)
    try:
        return FaultTolerantStages(("caption",), config)(SHARD), asked
    except ConfigError as error:
        return str(error), asked


WIDE = (*ON_CPU, f"captions.cache_bytes={2**26}", "captions.crops_together=64")


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_degraded_each_halving_of_slots_and_passes_asks_for_half_the_memory(tmp_path, attend, monkeypatch, times):
    config = narrow_config(tmp_path, *WIDE, "captions.slots=512", "placement.allow_degraded=true")
    halved = 512 // 2**times
    # Pairs of rows, and those of two beams of each search: there is one for each two rows of eight pairs.
    done, asked = lowered(config, attend, monkeypatch, most_rows=halved + halved // 8)
    assert done.degraded == {
        "captions.slots": halved,
        "captions.cache_bytes": 2**26 // 2**times,
        "captions.crops_together": 64 // 2**times,
    }
    assert not any(image.failure for image in done.images)
    assert len(asked) == times + 1
    assert all(now <= 0.55 * before for before, now in itertools.pairwise(asked))


@pytest.mark.slow
@pytest.mark.parametrize("is_allowed", [True, False])
def test_after_two_halvings_or_unasked_at_once_the_shard_is_set_aside_and_settings_and_values_are_named(
    tmp_path, attend, monkeypatch, is_allowed
):
    config = narrow_config(tmp_path, *WIDE, f"placement.allow_degraded={is_allowed}", "captions.slots=512")
    told, asked = lowered(config, attend, monkeypatch, most_rows=1)
    by = 4 if is_allowed else 1
    named = f"captions.cache_bytes (now {2**26 // by}), captions.crops_together (now {64 // by}) when the run goes on"
    assert f"shard 3, and again in a fresh process: give its actor more memory, or lower {named}" in told
    assert f", or captions.slots (now {512 // by}) in a new run" in told
    assert ("--allow-degraded" in told) == (not is_allowed)
    assert len(asked) == (3 if is_allowed else 1)


def test_one_crop_together_stands_for_many_in_fixed_shapes_and_is_halved_as_such(tmp_path, attend, monkeypatch):
    config = narrow_config(tmp_path, *ON_CPU, "captions.slots=512", "placement.allow_degraded=true")
    done, _ = lowered(config, attend, monkeypatch, most_rows=256 + 32)
    assert done.degraded["captions.crops_together"] == 320


def test_where_the_tree_took_over_what_is_halved_are_settings_that_it_has(tmp_path, monkeypatch):
    words = ("captions.decoder=auto", "captions.crops_together=640", "placement.allow_degraded=true")
    config, tried = narrow_config(tmp_path, *words), []

    class Child(SubprocessStages):
        def __init__(self, names, config):
            tried.append((config.captions.crops_together, config.captions.cache_bytes))

        def __exit__(self, *_):
            pass

        def __call__(self, shard):
            if len(tried) == 1:
                raise ChildOutOfMemoryError("CUDA out of memory")
            return shard

    monkeypatch.setattr(tolerant_stages, "SubprocessStages", Child)
    full = mock.patch.object(CachedCocaTowers, "step", side_effect=torch.OutOfMemoryError("CUDA out of memory"))
    with pretended_gpu(), full:
        done = FaultTolerantStages(("caption",), config)(SHARD)
    assert tried == [(1, 2**24), (1, 2**23)]
    assert done.degraded == {"captions.cache_bytes": 2**23}
