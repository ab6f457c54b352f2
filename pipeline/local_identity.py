"""Measures the identity on this machine before Ray starts, in a child process: the driver needs no torch and no GPU."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Final

import ray

from pseudoris.pipeline.cluster import identity_on_cluster, named_cluster
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.errors import PseudorisError, TransientError
from pseudoris.schemas.run_records import Identity, RunHeader
from pseudoris.store.runs.header import check_identity
from pseudoris.workers.faults.child_process import start_child

_MAIN: Final = "pseudoris.pipeline.local_identity_main"


def identity_before_ray(
    config: RunConfig, header: RunHeader | None, source: str, *, meanwhile: Callable[[], None] = lambda: None
) -> Identity | None:
    """Accept what can be known of a run before Ray starts: its settings, and on this machine its packages and weights.

    If the work is done by a cluster that exists already, only the settings are compared: weights, packages and devices
    are those of its nodes.

    Args:
        config: The configuration of this session.
        header: Of the run in OUT; None if there is none.
        source: Its `Source.name` now.
        meanwhile: Called while the child process measures: it takes a second of another core.

    Returns:
        The identity of this machine; None if an existing cluster does the work.

    Raises:
        ConfigError: A package or weights are missing, the instance prior is unset, or the run in OUT has another
            identity or SOURCE.
        TransientError: The child process died.
    """
    here = None
    if _joins_cluster(config.placement.address):
        config.masks.prior.check_is_set()
    else:
        here = _measured(config, meanwhile)
    if header is not None:
        known = header.identity if here is None else here
        # Only a process of the cluster knows its device.
        now = known.model_copy(update={"method": config.method(), "device_kind": header.identity.device_kind})
        check_identity(header, now, source, allow_mixed=config.placement.allow_mixed)
    return here


def _joins_cluster(address: str) -> bool:
    if ray.is_initialized() or named_cluster(address) is not None:
        return True
    # Where `auto` finds a cluster of this machine. Ray has no public name for it.
    return address != "local" and ray._private.utils.read_ray_address() is not None


def _measured(config: RunConfig, meanwhile: Callable[[], None]) -> Identity:
    with start_child(_MAIN, config.model_dump_json()) as child:
        meanwhile()
        answer, _ = child.communicate()
    try:
        found = pickle.loads(answer)  # from our own child
    except (EOFError, pickle.UnpicklingError):
        raise TransientError(
            f"the check of weights and packages ended with status {child.returncode} before it answered: its error is "
            "above. Run the same command again"
        ) from None
    if isinstance(found, PseudorisError):
        raise found
    identity: Identity = found
    return identity


def complete_identity(config: RunConfig, here: Identity | None) -> Identity:
    """Return the run's identity once Ray is connected.

    Args:
        config: The configuration of this session.
        here: As `identity_before_ray` returned it. Complete if Ray was started here and no model runs on a GPU.

    Raises:
        ConfigError: Weights, an engine or the device are missing on the cluster.
    """
    if here is not None and config.compute.device != "cuda":
        return here
    return identity_on_cluster(config)
