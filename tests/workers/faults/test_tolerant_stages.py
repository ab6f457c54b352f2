"""What a stage does when it raises, dies, or runs out of memory: with real children, real signals, real limits."""

import os
import signal
from dataclasses import replace
from typing import ClassVar
from unittest.mock import Mock

import pytest

from pseudoris.primitives.errors import BrokenDeviceError, ConfigError, NoSubprocessError, TransientError
from pseudoris.schemas.shard import Shard
from pseudoris.schemas.shard_blocks import block_to_shard, shard_to_block
from pseudoris.workers.captions import row_kernels
from pseudoris.workers.faults import tolerant_stages
from pseudoris.workers.faults.image_boundary import ImageBoundary
from pseudoris.workers.faults.subprocess_stages import ChildDiedError, ChildOutOfMemoryError
from pseudoris.workers.faults.tolerant_stages import FaultTolerantStages, quarantine_crashing_images
from pseudoris.workers.process_memory import MEMORY_ENVIRONMENT
from tests.builders.coca import narrow_config
from tests.builders.runs import stub_config
from tests.workers.captions.test_captioner import shard_image
from tests.workers.faults.builders import ALL, faulty_config, shard_of, undisturbed

pytestmark = pytest.mark.usefixtures("stub_engines")


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, pytest.param(2, marks=pytest.mark.long)])
def test_an_image_that_raises_has_one_try_here_and_one_in_a_fresh_process(tmp_path, times):
    shard = shard_of("good", "bad", "fine")
    done = FaultTolerantStages(ALL, faulty_config(tmp_path, raises_on="bad", raises_times=times))(shard).images
    failure, due = done[1].failure, undisturbed(shard)
    assert done[1] == due[1] if times == 1 else (failure.stage, failure.reason) == ("propose", "stage_error")
    assert done[::2] == due[::2]
    # All strikes are used up, so a third try would have passed.
    assert (tmp_path / "tally").stat().st_size == times


@pytest.mark.slow
@pytest.mark.long
def test_each_image_that_raises_has_a_process_of_its_own(tmp_path):
    shard = shard_of("bad", "good", "bad", "bad")
    failed = FaultTolerantStages(ALL, faulty_config(tmp_path, raises_on="bad", pids=str(tmp_path / "pids")))(
        shard
    ).images
    assert [image.failure is None for image in failed] == [False, True, False, False]
    pids = (tmp_path / "pids").read_text().split()
    assert pids[:3] == [str(os.getpid())] * 3
    assert len(set(pids[3:])) == 3


def of_one_key(names):
    """Return a shard of images that have ids of their own, and keys that need not differ."""
    shard = shard_of(*names)
    return shard.with_images(tuple(replace(image, image_id=f"{image.position}") for image in shard.images))


@pytest.mark.slow
def test_an_engine_that_raises_on_all_of_several_images_here_and_in_fresh_processes_ends_the_run(tmp_path):
    stages = FaultTolerantStages(ALL, faulty_config(tmp_path, raises_on="b"))
    message = r"^the propose stage raised ZeroDivisionError; .* each of 3 images: correct the engine, .*plugins.md"
    with pytest.raises(ConfigError, match=message):
        stages(of_one_key("bbbb"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "times", "failed"),
    [
        pytest.param("bb", 9, "bb", marks=pytest.mark.long, id="two"),
        pytest.param("bbbg", 9, "bbb", id="sound"),
        pytest.param("bbb", 4, "b", marks=pytest.mark.long, id="saved"),
    ],
)
def test_an_engine_that_one_image_proves_costs_the_others_alone(tmp_path, names, times, failed):
    stages = FaultTolerantStages(ALL, faulty_config(tmp_path, raises_on="b", raises_times=times))
    done = stages(of_one_key(names)).images
    assert "".join(image.key for image in done if image.failure) == failed


@pytest.mark.slow
def test_after_two_deaths_the_image_that_kills_is_found_and_costs_only_itself(tmp_path):
    shard = shard_of("good", "bad", "fine")
    stages = FaultTolerantStages(ALL, faulty_config(tmp_path, kills_on="bad", kills_with=int(signal.SIGSEGV)))
    done = stages(shard, num_deaths=2).images
    assert (done[1].failure.stage, done[1].failure.reason) == ("propose", "process_killed")
    assert (done[0], done[2]) == (undisturbed(shard)[0], undisturbed(shard)[2])


@pytest.mark.slow
def test_an_image_with_which_one_process_died_is_not_blamed(tmp_path):
    shard = shard_of("good", "bad")
    stages = FaultTolerantStages(ALL, faulty_config(tmp_path, kills_on="bad", kills_times=1))
    assert stages(shard, num_deaths=2).images == undisturbed(shard)
    assert (tmp_path / "tally").stat().st_size == 1


@pytest.mark.slow
def test_an_error_of_the_machine_in_the_search_blames_no_image(tmp_path):
    stages = FaultTolerantStages(ALL, faulty_config(tmp_path, breaks_on="bad"))
    with pytest.raises(TransientError, match=r"the propose stage raised OSError: .*weights\.bin"):
        stages(shard_of("good", "bad"), num_deaths=2)


def test_an_image_that_raised_is_not_blamed_where_no_process_can_be_started(tmp_path, monkeypatch):
    monkeypatch.setattr("pseudoris.images.child_process.sys.executable", str(tmp_path / "gone"))
    with pytest.raises(NoSubprocessError, match="no subprocess can be started"):
        FaultTolerantStages(ALL, faulty_config(tmp_path, raises_on="bad"))(shard_of("good", "bad"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mb_per_point": 8, "allowed_mb": 100, "roomy_pid": os.getpid()}, "no memory for a subprocess with image bad"),
        ({"child_dies": 9}, f"ended with status {-signal.SIGABRT} while it loaded the models"),
    ],
    ids=["has no memory", "dies"],
)
def test_an_image_that_raised_is_not_blamed_where_the_other_process_dies_while_it_loads(tmp_path, options, message):
    with pytest.raises(NoSubprocessError, match=message):
        FaultTolerantStages(ALL, faulty_config(tmp_path, raises_on="bad", **options))(shard_of("good", "bad"))


@pytest.mark.slow
def test_a_search_without_a_subprocess_runs_the_shard_as_a_whole(tmp_path):
    shard = shard_of("good", "fine")
    stages = FaultTolerantStages(ALL, faulty_config(tmp_path, child_dies=9))
    assert stages(shard, num_deaths=2).images == undisturbed(shard)


@pytest.mark.slow
def test_a_config_error_of_a_subprocess_arrives_as_what_it_is(tmp_path):
    stages = FaultTolerantStages(ALL, faulty_config(tmp_path, fault="load", marker=str(tmp_path / "marker")))
    (tmp_path / "marker").touch()
    with pytest.raises(ConfigError, match="install them"):
        stages(shard_of("a"), num_deaths=2)


@pytest.mark.slow
def test_memory_that_runs_out_twice_ends_the_run_and_names_the_setting(tmp_path):
    # 64 points of 8 MB, of which 100 MB are allowed: neither here nor in a child.
    stages = FaultTolerantStages(ALL, faulty_config(tmp_path, mb_per_point=8, allowed_mb=100))
    with pytest.raises(ConfigError, match=r"propose stage .* shard 3.*masks\.points_per_batch \(now 64\).*degraded"):
        stages(shard_of("a"))


@pytest.mark.slow
@pytest.mark.long
def test_degraded_halves_the_tiles_until_they_fit_and_says_so(tmp_path, monkeypatch):
    # A worker of Ray hands these to its children, and how much malloc asks for follows from them.
    for name, value in MEMORY_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    shard = shard_of("a", "b")
    settings = faulty_config(tmp_path, mb_per_point=8, allowed_mb=100)
    settings = settings.model_copy(update={"placement": settings.placement.model_copy(update={"allow_degraded": True})})
    done = FaultTolerantStages(ALL, settings)(shard)
    assert done.degraded == {"masks.points_per_batch": 8}
    assert done.images == undisturbed(shard)
    # A repair begins with the tiles that fitted then, also for an image that raised: all of them would not fit.
    repaired = replace(shard, degraded={"masks.points_per_batch": 8})
    raising = faulty_config(tmp_path, mb_per_point=8, allowed_mb=100, raises_on="b", raises_times=1)
    assert FaultTolerantStages(ALL, raising)(repaired).images == undisturbed(shard)


TRITON = type("CompilationError", (Exception,), {"__module__": "triton.compiler.errors"})


@pytest.fixture
def fixed(tmp_path):
    """Return what captions a shard in fixed shapes, whose kernel raises in this process but not in another one."""

    def refused(*_):
        raise TRITON("no such target")

    def fixed(*words):
        on_cpu = ["compute.device=cpu", "placement.fused.num_gpus=0", "captions.max_length=6"]
        stages = FaultTolerantStages(("caption",), narrow_config(tmp_path, *on_cpu, *words))
        row_kernels.attend_newest.register_kernel("cpu", refused)
        return stages(Shard(3, 0, (shard_image(0, num_masks=2), shard_image(1, num_masks=1))))

    yield fixed
    row_kernels.attend_newest.register_kernel("cpu", row_kernels.plain_attend_newest)


@pytest.mark.slow
def test_fixed_shapes_that_fail_set_the_shard_aside_or_degraded_the_tree_captions_it_and_the_receipt_says_so(fixed):
    message = r"captions in fixed shapes failed on shard 3 \(CompilationError: .*captions\.decoder=tree.*degraded"
    with pytest.raises(ConfigError, match=message):
        fixed("captions.decoder=static")
    done = fixed("captions.decoder=static", "placement.allow_degraded=true", "captions.crops_together=640")
    assert done.degraded == {"captions.decoder": "tree", "captions.crops_together": 1}
    assert block_to_shard(shard_to_block(done)).degraded == done.degraded
    assert done.images == fixed("captions.decoder=tree").images


class FullChild:
    """A subprocess without memory for any settings; `slots` are those that it was asked for."""

    slots: ClassVar[list] = []

    def __init__(self, names, config):
        self.slots.append(config.captions.slots)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __call__(self, shard):
        raise ChildOutOfMemoryError("caption")


def test_in_fixed_shapes_tiles_are_halved_twice_and_by_a_repair_never_again(tmp_path, monkeypatch):
    words = ["compute.device=cpu", "placement.fused.num_gpus=0", "captions.decoder=static", "captions.slots=512"]
    stages = FaultTolerantStages(("caption",), narrow_config(tmp_path, *words, "placement.allow_degraded=true"))
    monkeypatch.setattr(tolerant_stages, "SubprocessStages", FullChild)
    monkeypatch.setattr(FullChild, "slots", [])
    monkeypatch.setattr(ImageBoundary, "__call__", Mock(side_effect=MemoryError))
    shard = Shard(3, 0, (shard_image(0, num_masks=2),))
    message = (
        r"cache_bytes \(now \d+\), captions\.crops_together \(now \d+\) when the run goes on, or captions\.slots "
        r"\(now 128\) in a new run$"
    )
    with pytest.raises(ConfigError, match=message):
        stages(shard)
    assert FullChild.slots == [512, 256, 128]
    with pytest.raises(ConfigError, match=message):
        stages(replace(shard, degraded={"captions.slots": 128}))
    assert FullChild.slots == [512, 256, 128, 128]


@pytest.mark.slow
def test_a_compiler_that_fails_without_another_way_sets_the_shard_aside(fixed, monkeypatch):
    stages = FaultTolerantStages(ALL, stub_config())
    monkeypatch.setattr(ImageBoundary, "__call__", Mock(side_effect=TRITON("no such target")))
    with pytest.raises(TransientError, match="stage propose cannot be compiled or run here: no such target"):
        stages(shard_of("a"))


@pytest.mark.parametrize(
    ("bad", "where"), [({"b"}, "with b"), ({"a", "b", "c"}, "here"), (set(), "here")], ids=["one", "all", "together"]
)
def test_a_library_that_fails_with_some_images_alone_names_them(monkeypatch, bad, where):
    def together(_, shard):
        keys = {image.key for image in shard.images}
        if len(keys) > 1 or keys & bad:
            raise TRITON("no such target")
        return shard

    monkeypatch.setattr(ImageBoundary, "__call__", together)
    with pytest.raises(TransientError, match=f"stage propose cannot be compiled or run {where}: no such target"):
        FaultTolerantStages(ALL, stub_config())(shard_of("a", "b", "c"))


def test_a_device_that_fails_is_no_image_s_fault_and_ends_the_process(tmp_path):
    stages = FaultTolerantStages(ALL, faulty_config(tmp_path, device_fails=1))
    with pytest.raises(BrokenDeviceError, match="illegal memory access"):
        stages(shard_of("a"))


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_that_no_image_causes_blames_none(by):
    def child(shard):
        if left:
            left.pop()
            raise ChildDiedError("propose", -by)
        return shard

    left = [1, 1]
    assert not any(image.failure for image in quarantine_crashing_images(shard_of("bad"), child).images)
    left = [1, 1, 1]
    with pytest.raises(TransientError, match="was killed from outside 3 times while it worked on image bad"):
        quarantine_crashing_images(shard_of("bad"), child)
