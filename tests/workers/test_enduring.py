"""What a stage does when it raises, dies, or runs out of memory: with real children, real signals, real limits."""

from __future__ import annotations

import os
import signal

import pytest

from schemas.errors import BrokenDeviceError, ConfigError, TransientError
from schemas.shard import Shard, ShardImage
from tests.builders.images import png
from tests.builders.runs import stub_config
from workers.enduring import EnduringStages
from workers.isolation import ChildDiedError, IsolatedStages
from workers.memory import KEPT_MEMORY

pytestmark = pytest.mark.usefixtures("stub_engines")
ALL = ("propose", "caption", "filter")


def shard_of(*names):
    images = (
        ShardImage(position, name, name, png(height=9, width=9, seed=position), "0" * 64, 9, 9)
        for position, name in enumerate(names)
    )
    return Shard(3, 0, tuple(images))


def config(tmp_path, **options):
    options.setdefault("tally", str(tmp_path / "tally"))
    return stub_config(
        "masks.points_per_batch=64", *(f"masks.options.{name}={value}" for name, value in options.items())
    )


def undisturbed(shard):
    return EnduringStages(ALL, stub_config())(shard).images


def test_a_child_gives_what_the_process_itself_gives_and_serves_many_shards(tmp_path):
    shards = [shard_of("a", "b"), shard_of("c")]
    with IsolatedStages(ALL, config(tmp_path)) as child:
        assert [child(shard).images for shard in shards] == [undisturbed(shard) for shard in shards]


def test_a_childs_death_names_the_stage_and_the_signal_and_the_next_call_has_another(tmp_path):
    with IsolatedStages(ALL, config(tmp_path, kills_on="bad", kills_with=int(signal.SIGSEGV))) as child:
        with pytest.raises(ChildDiedError) as death:
            child(shard_of("bad"))
        assert (death.value.stage, death.value.status) == ("propose", -signal.SIGSEGV)
        assert not death.value.is_from_outside
        assert child(shard_of("good")).images == undisturbed(shard_of("good"))


def test_a_childs_config_error_arrives_as_what_it_is(tmp_path):
    with IsolatedStages(ALL, config(tmp_path, fault="load")) as child, pytest.raises(ConfigError, match="install them"):
        child(shard_of("a"))


def test_an_image_that_raises_here_and_passes_in_a_fresh_process_is_saved(tmp_path):
    # Twice in this process; the child's is the third.
    stages = EnduringStages(ALL, config(tmp_path, raises_on="bad", raises_times=2))
    shard = shard_of("good", "bad", "fine")
    assert stages(shard).images == undisturbed(shard)


def test_an_image_that_raises_in_a_fresh_process_too_is_quarantined_alone(tmp_path):
    shard = shard_of("good", "bad", "fine")
    done = EnduringStages(ALL, config(tmp_path, raises_on="bad"))(shard).images
    assert (done[1].failure.stage, done[1].failure.reason) == ("propose", "stage_error")
    assert (done[0], done[2]) == (undisturbed(shard)[0], undisturbed(shard)[2])


@pytest.mark.parametrize("fatal", [signal.SIGABRT, signal.SIGSEGV])
def test_after_two_deaths_the_image_that_kills_is_found_and_costs_only_itself(tmp_path, fatal):
    shard = shard_of("good", "bad", "fine")
    stages = EnduringStages(ALL, config(tmp_path, kills_on="bad", kills_with=int(fatal)))
    done = stages(shard, num_deaths=2).images
    assert (done[1].failure.stage, done[1].failure.reason) == ("propose", "process_killed")
    assert (done[0], done[2]) == (undisturbed(shard)[0], undisturbed(shard)[2])


def test_deaths_that_no_image_causes_quarantine_none(tmp_path):
    shard = shard_of("good", "fine")
    assert EnduringStages(ALL, config(tmp_path))(shard, num_deaths=5).images == undisturbed(shard)


def test_a_process_that_somebody_else_kills_again_and_again_blames_no_image(tmp_path):
    stages = EnduringStages(ALL, config(tmp_path, kills_on="bad", kills_with=int(signal.SIGKILL)))
    with pytest.raises(TransientError, match="from outside 3 times"):
        stages(shard_of("good", "bad"), num_deaths=2)


def test_an_error_of_the_machine_in_the_search_blames_no_image(tmp_path):
    stages = EnduringStages(ALL, config(tmp_path, breaks_on="bad"))
    with pytest.raises(TransientError, match=r"the propose stage raised OSError: .*weights\.bin"):
        stages(shard_of("good", "bad"), num_deaths=2)


def test_an_image_that_raised_keeps_its_verdict_where_no_other_process_has_room(tmp_path):
    options = {"raises_on": "bad", "mb_per_point": 8, "allowed_mb": 100, "roomy_pid": os.getpid()}
    done = EnduringStages(ALL, config(tmp_path, **options))(shard_of("good", "bad")).images
    assert [image.failure and image.failure.reason for image in done] == [None, "stage_error"]


def test_memory_that_runs_out_twice_ends_the_run_and_names_the_setting(tmp_path):
    # 64 points of 8 MB, of which 100 MB are allowed: neither here nor in a child.
    stages = EnduringStages(ALL, config(tmp_path, mb_per_point=8, allowed_mb=100))
    with pytest.raises(ConfigError, match=r"propose stage .* shard 3.*masks\.points_per_batch \(now 64\).*degraded"):
        stages(shard_of("a"))


def test_degraded_halves_the_tiles_until_they_fit_and_says_so(tmp_path, monkeypatch):
    # A worker of Ray hands these to its children, and how much malloc asks for follows from them.
    for name, value in KEPT_MEMORY.items():
        monkeypatch.setenv(name, value)
    shard = shard_of("a", "b")
    settings = config(tmp_path, mb_per_point=8, allowed_mb=100)
    settings = settings.model_copy(update={"placement": settings.placement.model_copy(update={"allow_degraded": True})})
    done = EnduringStages(ALL, settings)(shard)
    assert done.degraded == {"masks.points_per_batch": 8}
    assert done.images == undisturbed(shard)


def test_a_device_that_fails_is_no_image_s_fault_and_ends_the_process(tmp_path):
    stages = EnduringStages(ALL, config(tmp_path, device_fails=1))
    with pytest.raises(BrokenDeviceError, match="illegal memory access"):
        stages(shard_of("a"))
