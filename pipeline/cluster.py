"""Ray itself: join or start it quietly, see its nodes, and leave as it was found."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import ray
from ray.exceptions import AuthenticationError

from pipeline.failures import causes, original_error
from pipeline.identity import measure_identity
from pipeline.interrupts import handlers_kept, signals_deferred
from schemas.config import RunConfig
from schemas.errors import ConfigError, TransientError
from schemas.run import Identity
from schemas.uris import secret_in

logger = logging.getLogger(__name__)

RAY_ADDRESS = "RAY_ADDRESS"
# What a cluster across the internet needs to take a connection, many times over.
_CONNECT_TIMEOUT_S: Final = 5.0
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


@contextmanager
def connected(address: str) -> Iterator[bool]:
    """Be connected to a Ray cluster inside the block; one that was started for it ends with it.

    Yields whether nodes may join the cluster: it was there before, or is being scaled.

    Args:
        address: `auto`: the cluster of RAY_ADDRESS or of this machine, else a new local one; `local`:
            a new local one; `HOST:PORT`: that one. An open connection of this process is used as it is.

    Raises:
        ConfigError: The address is a Ray Client's, or no cluster answers there.
        TransientError: A new cluster did not come up in Ray's own time.
    """
    _refuse_client(address)
    if ray.is_initialized():
        yield True
        return
    folder = tempfile.mkdtemp(prefix="pseudoris-ray-") if address == "local" else None
    try:
        yield _start(address, folder)
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def named_cluster(address: str) -> str | None:
    """Return the address of the cluster that is named by `address` or by RAY_ADDRESS, None where none is named."""
    named = os.environ.get(RAY_ADDRESS, "") if address == "auto" else address
    return None if named in ("", "auto", "local") else named


def node_resources() -> list[dict[str, float]]:
    """Return the resources of each living node."""
    return [dict(node["Resources"]) for node in living_nodes()]


def living_nodes() -> list[dict[str, Any]]:
    """Return what Ray knows of each living node."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]  # Ray's own
    return [node for node in nodes if node["Alive"]]


def identity_on_cluster(config: RunConfig) -> Identity:
    """Return the identity as a node measures it that the first model pool could run on.

    Raises:
        ConfigError: Weights, an engine or the device are missing there.
    """
    pool = next(iter(config.model_pools().values()))
    measure = ray.remote(measure_identity).options(
        num_cpus=pool.num_cpus, num_gpus=pool.num_gpus, resources=dict(pool.resources), max_retries=1
    )
    try:
        identity: Identity = ray.get(measure.remote(config))
    except ray.exceptions.RayError as error:
        raise original_error(error) from error
    return identity


def _refuse_client(address: str) -> None:
    """Raise ConfigError for an address with a protocol, which Ray would take for its Client, also in RAY_ADDRESS."""
    named = os.environ.get(RAY_ADDRESS, "") if address == "auto" else address
    secret = secret_in(named)
    if secret is not None:
        raise ConfigError(f"{RAY_ADDRESS if address == 'auto' else 'address'}: {secret}")
    if "://" not in named:
        return
    where = f"address {named!r}" + (f" (of {RAY_ADDRESS})" if address == "auto" else "")
    raise ConfigError(
        f"{where} is Ray Client's or a job server's. A run through Ray Client is lost when the connection drops: "
        "submit the command as a job, ray job submit --address http://HOST:8265 -- pseudoris annotate … --address auto"
    )


def _check_answers(named: str) -> None:
    """Raise ConfigError where nothing takes a connection at HOST:PORT; Ray would try for minutes.

    Any other form is left to Ray, which refuses it at once.
    """
    host, _, port = named.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdecimal():
        return
    try:
        _connect(host, int(port))
    except (OSError, OverflowError, UnicodeError) as error:
        raise ConfigError(_no_cluster(named, error)) from error


def _connect(host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT_S).close()
    except OSError:
        # Ray takes a loopback address for this node's own, and may listen there alone.
        if host not in _LOOPBACK:
            raise
        own = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]  # Ray's own
        socket.create_connection((own, port), timeout=_CONNECT_TIMEOUT_S).close()


def _no_cluster(address: str, error: Exception) -> str:
    return (
        f"no Ray cluster at address {address!r}: {error}. Start one (ray start --head), name another with "
        "--address HOST:PORT, or use --address local"
    )


def _start(address: str, folder: str | None) -> bool:
    """Connect, and return whether the cluster was there before."""
    named = named_cluster(address)
    if named is not None:
        _check_answers(named)
    _quieten()
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        options |= {"address": "local", "include_dashboard": False, "_temp_dir": folder}
    elif address != "auto":
        options |= {"address": address}
    try:
        # Broken off halfway a new Ray would leave the processes that it has started. Joining starts none, and may wait
        # for minutes for what answers there and is no Ray.
        with signals_deferred() if named is None else handlers_kept(), _muted_stderr():
            ray.init(**options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        # Ray gives its own error away as text.
        if any(AuthenticationError.__name__ in str(link) for link in causes(error)):
            raise ConfigError(
                f"the Ray cluster at address {address!r} asks for a token: set RAY_AUTH_MODE=token, with the token in "
                "~/.ray/auth_token or RAY_AUTH_TOKEN"
            ) from error
        raise ConfigError(_no_cluster(address, error)) from error
    except Exception as error:
        # Ray raises a bare Exception where its processes do not come up in their 30 seconds.
        raise TransientError(
            f"Ray did not start: {error} The machine may be busy or short of memory: see what else runs on it"
        ) from error
    # No public name tells whether `auto` has found a cluster or started one.
    node: Any = ray._private.worker._global_node
    return node is None or not node.is_head()


def _quieten() -> None:
    """Keep Ray's talk off the terminal, where it would tear the progress bar; its log files keep all of it."""
    # Read by Ray's C++ when it starts.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    for handler in logging.getLogger("ray.data").handlers:
        # What ends a run is raised as well, and told by us; its file handler is no StreamHandler.
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)


@contextmanager
def _muted_stderr() -> Iterator[None]:
    """Let nothing through to the terminal's stderr: Ray's C++ announces there that it will be silent."""
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
