"""Stages in a real subprocess: what comes back through the pipe, and how an end of it is told."""

from __future__ import annotations

import signal

import pytest

from pseudoris.images.child_process import is_external_signal
from pseudoris.schemas.errors import ConfigError
from pseudoris.workers.faults.subprocess_stages import ChildDiedError, SubprocessStages
from tests.workers.faults.builders import ALL, faulty_config, shard_of, undisturbed

pytestmark = pytest.mark.usefixtures("stub_engines")


@pytest.mark.slow
def test_a_child_gives_what_the_process_itself_gives_and_serves_many_shards(tmp_path):
    shards = [shard_of("a", "b"), shard_of("c")]
    with SubprocessStages(ALL, faulty_config(tmp_path)) as child:
        assert [child(shard).images for shard in shards] == [undisturbed(shard) for shard in shards]


@pytest.mark.slow
def test_a_childs_death_names_the_stage_and_the_signal_and_the_next_call_has_another(tmp_path):
    with SubprocessStages(ALL, faulty_config(tmp_path, kills_on="bad", kills_with=int(signal.SIGSEGV))) as child:
        with pytest.raises(ChildDiedError, match="in stage propose with status -11") as death:
            child(shard_of("bad"))
        assert (death.value.stage, death.value.status) == ("propose", -signal.SIGSEGV)
        assert not is_external_signal(death.value.status)
        assert child(shard_of("good")).images == undisturbed(shard_of("good"))


@pytest.mark.slow
def test_a_childs_config_error_arrives_as_what_it_is(tmp_path):
    with (
        SubprocessStages(ALL, faulty_config(tmp_path, fault="load")) as child,
        pytest.raises(ConfigError, match="install them"),
    ):
        child(shard_of("a"))
