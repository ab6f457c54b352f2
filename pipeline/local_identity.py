"""Measures the identity on this machine before Ray starts, in a child process: the driver needs no torch and no GPU."""

from __future__ import annotations

import pickle
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import ray

from pseudoris.pipeline.cluster import identity_on_cluster, named_cluster
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.errors import PseudorisError, TransientError
from pseudoris.schemas.run_records import Identity, RunHeader
from pseudoris.store.runs.header import check_identity
from pseudoris.workers.faults.child_process import start_child

_MAIN: Final = "pseudoris.pipeline.local_identity_main"


@contextmanager
def identity_before_ray(config: RunConfig, header: RunHeader | None, source: str) -> Iterator[Callable[[], Identity]]:
    """Accept what can be known of a run before Ray starts: its settings, and on this machine its packages and weights.

    If the work is done by a cluster that exists already, only the settings are compared: weights, packages and devices
    are those of its nodes.

    Yields a function that returns the run's identity once Ray is connected. It raises ConfigError if weights, an engine
    or the device are missing on the cluster.

    Args:
        config: The configuration of this session.
        header: Of the run in OUT; None if there is none.
        source: Its `Source.name` now.

    Raises:
        ConfigError: A package or weights are missing, the instance prior is unset, or the run in OUT has another
            identity or SOURCE.
        TransientError: The child process died.
    """
    if _joins_cluster(config.placement.address):
        config.masks.prior.check_is_set()
        _check(config, header, None if header is None else header.identity, source)
        yield partial(identity_on_cluster, config)
        return
    with _measuring(config) as (here, kind_of_device):
        _check(config, header, here, source)
        if config.compute.device == "cuda":
            yield partial(identity_on_cluster, config)
        else:
            # Ray starts while the child loads torch.
            yield lambda: here.model_copy(update={"device_kind": kind_of_device()})


def _check(config: RunConfig, header: RunHeader | None, known: Identity | None, source: str) -> None:
    """Compare with the run in OUT, if there is one."""
    if header is None or known is None:
        return
    # Only a process of the run knows its device.
    now = known.model_copy(update={"method": config.method(), "device_kind": header.identity.device_kind})
    check_identity(header, now, source, allow_mixed=config.placement.allow_mixed)


def _joins_cluster(address: str) -> bool:
    if ray.is_initialized() or named_cluster(address) is not None:
        return True
    # Where `auto` finds a cluster of this machine. Ray has no public name for it.
    return address != "local" and ray._private.utils.read_ray_address() is not None


@contextmanager
def _measuring(config: RunConfig) -> Iterator[tuple[Identity, Callable[[], str]]]:
    """Yield what a child process measures: the identity but for its kind of device, and what waits for that."""
    with start_child(_MAIN, config.model_dump_json()) as child:
        try:
            identity: Identity = _answer(child)
            yield identity, partial(_last_answer, child)
        finally:
            child.kill()


def _last_answer(child: subprocess.Popen[bytes]) -> Any:
    found = _answer(child)
    child.wait()
    return found


def _answer(child: subprocess.Popen[bytes]) -> Any:
    if child.stdout is None:
        raise ValueError("the child has no pipe")
    try:
        found = pickle.load(child.stdout)  # from our own child
    except (EOFError, pickle.UnpicklingError):
        raise TransientError(
            f"the check of weights and packages ended with status {child.wait()} before it answered: its error is "
            "above. Run the same command again"
        ) from None
    if isinstance(found, PseudorisError):
        raise found
    return found
