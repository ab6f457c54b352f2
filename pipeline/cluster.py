"""The Ray cluster of a run: joins it or starts it, lists its nodes, and turns Ray's errors into ours.

Called by most modules here, and by `cli` for `verify --address` and `doctor`. A Ray that was started here ends with its
block, and an error of Ray itself leaves the block as a `TransientError`.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import socket
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import ray
from ray.exceptions import AuthenticationError, OutOfMemoryError, RayError

from pseudoris.pipeline.interrupts import handlers_kept, signals_deferred
from pseudoris.pipeline.memory_monitor import memory_advice, memory_watched
from pseudoris.primitives.errors import ConfigError, PseudorisError, TransientError
from pseudoris.primitives.machine_limits import check_limits
from pseudoris.primitives.uris import secret_in

logger = logging.getLogger(__name__)

# Ray Data appends advice to the message of every exception that passes through it. The advice begins with this text.
_ADVICE: Final = "\nFailed to apply UDF transform after "

T = TypeVar("T")
RAY_ADDRESS = "RAY_ADDRESS"
_UV_UPLOAD: Final = "RAY_ENABLE_UV_RUN_RUNTIME_ENV"
# Where models hold all CPUs, Ray ends a worker that reads or commits after a second without work, and the next one
# takes seconds of CPU to start. Source: measured, 300 shards on two shared CPUs: 5 workers start instead of 29, and all
# processes take 81 s of CPU instead of 156 s.
# By default Ray adds 15 to the niceness of its workers: beside other work on two CPUs models got 3 % of a core.
# Source: measured, the demo's scenes had no shard after 400 s, and were done in 120 s at the driver's own priority.
# By default Ray retries forever a task that its memory monitor ended: the run stands still, and nothing is printed.
RAY_SETTINGS: Final = {
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
    "RAY_worker_niceness": "0",
    "RAY_task_oom_retries": "5",
    # By default a driver of `uv run` uploads its folder, which is often that of the images, and has uv install it in
    # workers. Ours need none of it: they run in the driver's environment, or in that of their cluster.
    _UV_UPLOAD: "0",
}
# These variables say how many seconds Ray waits until its two servers, GCS and raylet, have started.
_START_LIMITS: Final = ("RAY_gcs_server_port_wait_time_s", "RAY_raylet_start_wait_time_s")
# A cluster that does not answer within this many seconds counts as gone. An answer across the internet takes far less.
_CONNECT_TIMEOUT_S: Final = 4.0
# Ray's gRPC uses HTTP/2. A client first sends the preface, and a server answers with a frame of the type SETTINGS.
# Source: RFC 9113, sections 3.4 and 6.5.
_HTTP2_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
_HTTP2_SETTINGS: Final = 4
# Matches Ray's error for a socket path that is too long. Ray raises it before any process starts.
_LONG_SOCKET: Final = re.compile(r"AF_UNIX path length cannot exceed (\d+) bytes: (.+)")
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
# Maps an address to whether `joins_cluster` got no answer there. `_start` uses it, because a try takes seconds.
_gone: Final[dict[str, bool]] = {}


def task_result(task: ray.ObjectRef[T]) -> T:
    """Wait for a task and return its result. Raises what the task raised, see `original_error`."""
    try:
        return ray.get(task)
    except RayError as error:
        raise original_error(error) from error


def original_error(error: BaseException) -> BaseException:
    """Return the project's own error inside `error`, or the error to raise instead.

    `RayTaskError.cause` is what a worker raised. If that is a bug in a stage's code, `error` itself is returned, with
    the worker's traceback in its text. Errors of Ray (a lost node, a lost object) become `TransientError`: committed
    shards are kept, and another session continues.
    """
    chain = list(causes(error))
    for link in chain:
        # Classes that Ray derives from our class and `RayError` are skipped: their text is a whole traceback.
        if isinstance(link, PseudorisError) and not isinstance(link, RayError):
            link.args = (str(link).partition(_ADVICE)[0], *link.args[1:])
            return link
    if not all(isinstance(link, RayError) for link in chain):
        # The error is a bug in a stage. The original exception is returned, with the worker's traceback in its chain.
        return error
    remedy = "run the same command again to continue"
    if isinstance(error, OutOfMemoryError):
        return TransientError(
            f"Ray's memory monitor ended workers again and again {memory_advice(str(error))}; {remedy}"
        )
    first_line = str(error).strip().partition("\n")[0] or type(error).__name__
    return TransientError(f"Ray gave up ({type(error).__name__}: {first_line}); {remedy}")


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield `error` and every exception that it was raised from, outermost first, each once."""
    pending: list[BaseException | None] = [error]
    seen: set[int] = set()
    while pending:
        link = pending.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        cause = getattr(link, "cause", None)
        # __context__ is not followed: it holds an error that was handled and did not cause this one.
        pending += [link.__cause__, cause if isinstance(cause, BaseException) else None]


@contextmanager
def connected(address: str, start_timeout_s: int = 30) -> Iterator[bool]:
    """Connect to a Ray cluster for the block. A cluster that was started for the block ends with it.

    Yields whether nodes may join the cluster: true if it existed before, or is being scaled.

    Args:
        address: `auto`: the cluster of RAY_ADDRESS or of this machine, else a new local one; `local`: a new local one;
            `HOST:PORT`: that one. If this process is already connected, that connection is used.
        start_timeout_s: `placement.start_timeout_s`.

    Raises:
        ConfigError: The address is a Ray Client's, no cluster answers there, or Ray cannot use its temporary folder.
        TransientError: A new cluster did not start in time, or Ray failed inside the block.
    """
    _refuse_client(address)
    try:
        with ExitStack() as stack:
            may_grow = True
            if not ray.is_initialized():
                folder = _new_folder() if address == "local" else None
                if folder is not None:
                    stack.callback(shutil.rmtree, folder, ignore_errors=True)
                stack.enter_context(_quiet())
                stack.callback(ray.shutdown)
                may_grow = _start(address, folder, start_timeout_s)
            stack.enter_context(memory_watched())
            yield may_grow
    except RayError as error:
        ours = original_error(error)
        if ours is error:
            raise
        raise ours from error


def temporary_folder() -> str:
    """Return the folder in which Ray makes its own, by Ray's rule."""
    return os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"


def _new_folder() -> str:
    """Return a new folder for a Ray of this run alone. The name is short: it counts in the path of a socket."""
    parent = temporary_folder()
    try:
        Path(parent).mkdir(parents=True, exist_ok=True)
        return tempfile.mkdtemp(prefix="ray-", dir=parent)
    except OSError as error:
        raise _folder_error(error) from error


def _folder_error(error: OSError) -> ConfigError:
    parent, found = temporary_folder(), _LONG_SOCKET.search(str(error))
    reason = error.strerror
    if found is not None:
        length, limit = len(os.fsencode(parent)), int(found[1])
        longest = limit - len(os.fsencode(found[2])) + length
        reason = (
            f"its path has {length} bytes. Ray can use {longest} at most, because a Unix socket below it may have a "
            f"path of {limit}"
        )
    return ConfigError(
        f"Ray cannot use the temporary folder {parent!r}: {reason}. Set RAY_TMPDIR to another one, such as /tmp"
    )


def named_cluster(address: str) -> str | None:
    """Return the address of the cluster that `address` or RAY_ADDRESS names, None if neither names one."""
    named = os.environ.get(RAY_ADDRESS, "") if address == "auto" else address
    return None if named in ("", "auto", "local") else named


def node_resources() -> list[dict[str, float]]:
    """Return the resources of each living node."""
    return [dict(node["Resources"]) for node in living_nodes()]


def lone_node() -> dict[str, float]:
    """Return the CPUs of the node that a Ray started here would have, without asking Ray."""
    # Ray's count respects the CPU limit of a container, Python's does not. Ray has no public name for it.
    return {"CPU": float(ray._private.utils.get_num_cpus(override_docker_cpu_warning=True))}


def living_nodes() -> list[dict[str, Any]]:
    """Return Ray's record of each living node."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]  # Ray's own
    return [node for node in nodes if node["Alive"]]


def joins_cluster(address: str) -> bool:
    """Return whether a connection to `address` would use a cluster that exists already."""
    if ray.is_initialized() or named_cluster(address) is not None:
        return True
    recorded = _recorded_cluster()
    if address == "local" or recorded is None:
        return False
    # A Ray that was killed leaves its address recorded, so this checks that something answers there.
    _gone[recorded] = _silent(recorded) is not None
    return not _gone[recorded]


def _recorded_cluster() -> str | None:
    """Return where `auto` finds a cluster of this machine. Ray has no public name for it."""
    return cast("str | None", ray._private.utils.read_ray_address())


def _refuse_client(address: str) -> None:
    """Raise ConfigError for an address with a protocol, also in RAY_ADDRESS: Ray would use Ray Client for it."""
    named = named_cluster(address) or ""
    secret = secret_in(named)
    if secret is not None:
        raise ConfigError(f"{RAY_ADDRESS if address == 'auto' else 'address'}: {secret}")
    if "://" not in named:
        return
    where = f"address {named!r}" + (f" (of {RAY_ADDRESS})" if address == "auto" else "")
    raise ConfigError(
        f"{where} is an address of Ray Client or of a job server. A run through Ray Client is lost if the connection "
        "drops. Submit a job instead: ray job submit --address http://HOST:8265 -- pseudoris annotate … --address auto"
    )


def _silent(named: str) -> ConfigError | None:
    """Return the error if nothing at HOST:PORT answers as a Ray does; Ray itself would try for minutes."""
    # Only HOST:PORT is tried, because Ray itself refuses any other form at once.
    host, _, port = named.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdecimal():
        return None
    try:
        try:
            _greet(host, int(port))
        except OSError:
            # A Ray on this machine may listen only at the node's own address, so that is tried for a loopback address.
            if host not in _LOOPBACK:
                raise
            _greet(ray.util.get_node_ip_address(), int(port))  # type: ignore[no-untyped-call]  # Ray's own
    except (OSError, OverflowError, UnicodeError) as error:
        return _no_cluster(named, error)
    return None


def _greet(host: str, port: int) -> None:
    with socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT_S) as connection:
        # With TLS only a client with the keys can connect, so this check is skipped.
        if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
            return
        connection.sendall(_HTTP2_PREFACE)
        answer = connection.recv(9)
    if answer[3:4] != bytes([_HTTP2_SETTINGS]):
        raise ConnectionError("what listens there is not a Ray cluster")


def _no_cluster(address: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"no Ray cluster at address {address!r}: {error}. Start one (ray start --head), name another with "
        "--address HOST:PORT, or use --address local"
    )


def _start(address: str, folder: str | None, start_timeout_s: int) -> bool:
    """Connect, and return whether the cluster existed before."""
    named = named_cluster(address)
    if named is None:
        check_limits(temporary=temporary_folder())
    elif (refusal := _silent(named)) is not None:
        raise refusal
    # Only a Ray that starts now reads these variables. A running one keeps its own settings.
    os.environ.update({name: value for name, value in RAY_SETTINGS.items() if name not in os.environ})
    os.environ.update(dict.fromkeys(_START_LIMITS, str(start_timeout_s)))
    # Ray read these variables when it was imported. It has no public function to read them again.
    raylet: Any = ray._raylet
    raylet.Config.initialize("")
    constants: Any = ray._private.ray_constants
    constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = constants.env_bool(_UV_UPLOAD, default=True)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        options |= {"address": "local", "include_dashboard": False, "_temp_dir": folder}
    elif address != "auto":
        options |= {"address": address}
    elif named is None and (recorded := _recorded_cluster()) is not None:
        is_gone = _gone.pop(recorded) if recorded in _gone else _silent(recorded) is not None
        # Ray would try for 15 minutes to join a cluster that is gone, so a new one is started.
        options |= {"address": "local"} if is_gone else {}
    try:
        # An interrupted start would leave Ray's processes behind, so signals wait. Joining starts no process, and may
        # wait for minutes if another service answers there, so signals act at once.
        with signals_deferred() if named is None else handlers_kept(), _muted_stderr():
            ray.init(**options)
    except Exception as error:
        raise _start_error(error, address, start_timeout_s) from error
    node: Any = ray._private.worker._global_node  # no public name tells whether `auto` found a cluster
    is_joined = node is None or not node.is_head()
    if is_joined and named is None:
        logger.warning(
            "Joined the Ray cluster that runs on this machine. Use --address local to start one for this run alone"
        )
    free = ray.available_resources().get("CPU", 0.0) if is_joined else 1.0  # type: ignore[no-untyped-call]  # Ray's own
    if free < 1:
        existing = ray.cluster_resources().get("CPU", 0.0)  # type: ignore[no-untyped-call]  # Ray's own
        told = "The Ray cluster has %g of its %g CPUs free. Work waits for one; `ray status` shows what is in use"
        logger.warning(told, free, existing)
    return is_joined


def _start_error(error: Exception, address: str, start_timeout_s: int) -> PseudorisError:
    """Return what to raise for an error of `ray.init`, a bare Exception if its processes do not start in time."""
    # Ray keeps files in the home folder too. It may contain the temporary folder or be in it: the longer match decides.
    home, path = os.environ.get("HOME", ""), str(getattr(error, "filename", ""))
    roots = [root for root in (home, temporary_folder()) if root and path.startswith(root)]
    has_none = isinstance(error, RuntimeError) and "home directory" in str(error)
    if has_none or (roots and max(roots, key=len) == home):
        reason = "this user has none" if has_none else error
        return ConfigError(f"Ray keeps files in the home folder: {reason}. Set HOME to a folder that can be written")
    if isinstance(error, (ConnectionError, ValueError, RuntimeError)):
        if any(AuthenticationError.__name__ in str(link) for link in causes(error)):
            return ConfigError(
                f"the Ray cluster at address {address!r} requires a token: set RAY_AUTH_MODE=token, and put the token "
                "into ~/.ray/auth_token or RAY_AUTH_TOKEN"
            )
        return _no_cluster(address, error)
    if isinstance(error, OSError) and temporary_folder() in str(error):
        return _folder_error(error)
    return TransientError(
        f"Ray did not start: {error} The machine may be busy or short of memory: check what else runs on it, or raise "
        f"the time limit (--set placement.start_timeout_s=…; it is {start_timeout_s} s)"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray's messages off the terminal, where they would break the progress bar; Ray's log files keep them all."""
    # Ray's C++ code reads this variable when it starts, and then prints only fatal errors.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    for handler in logging.getLogger("ray.data").handlers:
        # An error that ends a run is also raised, and we report it. Ray's file handler is not a StreamHandler. Handlers
        # of others are the caller's, and may serve other loggers too.
        if isinstance(handler, logging.StreamHandler) and type(handler).__module__.startswith("ray."):
            handler.setLevel(logging.CRITICAL)
    # Ray prints reports of dead workers even if `log_to_driver` is off, unless this private switch is off too.
    worker: Any = ray._private.worker
    is_printing, worker._worker_logs_enabled = worker._worker_logs_enabled, False
    with warnings.catch_warnings():
        # Ray Data's warnings are about how this code calls it, so the user does not see them.
        warnings.filterwarnings("ignore", module=r"ray\.")
        try:
            yield
        finally:
            worker._worker_logs_enabled = is_printing


@contextmanager
def _muted_stderr() -> Iterator[None]:
    """Mute the terminal's stderr: Ray's C++ code announces there that it will be silent."""
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
