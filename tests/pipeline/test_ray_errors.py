"""What a worker's or Ray's own error becomes on the driver."""

from __future__ import annotations

import pytest
from ray.exceptions import ActorDiedError, NodeDiedError, RayTaskError

from pseudoris.pipeline.cluster import original_error
from pseudoris.schemas.errors import ConfigError, TransientError


def worker_error(cause: Exception) -> RayTaskError:
    return RayTaskError("stage", "a page of traceback", cause)


@pytest.mark.parametrize("cause", [ConfigError("a setting"), TransientError("a bucket")])
def test_our_own_errors_come_out_of_rays_wrapping(cause):
    assert original_error(worker_error(cause)) is cause
    assert original_error(worker_error(cause).as_instanceof_cause()) is cause


def test_rays_advice_on_its_own_settings_is_taken_out_of_the_message():
    # Verbatim from Ray Data 2.60, which changes the exception's args; the tests of a run see it live.
    advice = "Failed to apply UDF transform after 1/1 attempts (total backoff 0.0s).\nTo change retry attempts, …"
    error = worker_error(ConfigError(f"two lines\nof ours\n{advice}"))
    assert str(original_error(error)) == "two lines\nof ours"


def test_a_bug_keeps_the_workers_traceback():
    error = worker_error(ZeroDivisionError("by zero"))
    assert original_error(error) is error


@pytest.mark.parametrize("error", [ActorDiedError(), NodeDiedError("node 17 is gone\nand a page more")])
def test_a_lost_process_or_node_is_transient_and_says_how_to_continue(error):
    found = original_error(error)
    assert isinstance(found, TransientError)
    assert "run the same command again" in str(found)
    assert "\n" not in str(found)
