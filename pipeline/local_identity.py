"""Measures the identity on this machine before Ray starts, in a child process: the driver needs no torch and no GPU."""

from __future__ import annotations

import contextlib
import logging
import pickle
import subprocess
from collections.abc import Callable
from typing import Any, Final, Self

import ray

from pseudoris.images.child_process import start_child
from pseudoris.pipeline.cluster import identity_on_cluster, named_cluster
from pseudoris.pipeline.local_identity_main import LocalQuestions
from pseudoris.pipeline.run_options import RunOptions
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.domain import DomainRecord
from pseudoris.schemas.errors import ConfigError, PseudorisError, TransientError
from pseudoris.schemas.run_records import Identity, RunHeader
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.header import check_identity
from pseudoris.store.runs.manifest import cached_receipts
from pseudoris.store.runs.stored_exclusions import stored_exclusions
from pseudoris.store.runs.totals import Totals
from pseudoris.store.sources import Source
from pseudoris.store.sources.exclusions import Exclusions

logger = logging.getLogger(__name__)

_MAIN: Final = "pseudoris.pipeline.local_identity_main"
_ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class LocalCheck:
    """The child process that looks at this machine and at a sample of SOURCE; the sample takes until Ray has started.

    Use it as a context manager: the child ends with the block.
    """

    def __init__(self, config: RunConfig, sampled: Source | None = None, exclusions: Exclusions | None = None) -> None:
        """Prepare the questions; nothing is started.

        Args:
            config: The configuration of this session. If it has no `domain`, no sample is asked.
            sampled: SOURCE, if a sample is asked.
            exclusions: Of that run.
        """
        self._config = config
        self._sampled = None if config.domain is None else sampled
        self._exclusions = exclusions or Exclusions()
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def asks_sample(self) -> bool:
        """Whether a sample of SOURCE is asked."""
        return self._sampled is not None

    def __enter__(self) -> Self:
        """Return the check."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the child, which may still be at the sample."""
        self._end()

    def _end(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None

    def start(self, *, measures_identity: bool) -> None:
        """Start the child, if there is anything to ask."""
        if not measures_identity and not self.asks_sample:
            return
        questions = LocalQuestions(
            config=self._config,
            measures_identity=measures_identity,
            source=None if self._sampled is None else self._sampled.name,
            exclude=None if self._sampled is None else self._sampled.exclude,
            has_exclusions=bool(self._exclusions),
        )
        # One thread: Ray starts meanwhile.
        self._child = start_child(_MAIN, questions.model_dump_json(), environment=_ONE_THREAD)
        if not measures_identity:
            self._send_exclusions()

    def _send_exclusions(self) -> None:
        if self._sampled is None or not self._exclusions or self._child is None or self._child.stdin is None:
            return
        # A child that has died says so where its answer is read.
        with contextlib.suppress(BrokenPipeError):
            pickle.dump(self._exclusions, self._child.stdin)
            self._child.stdin.flush()

    def identity(self) -> Identity:
        """Return the identity of this machine.

        Raises:
            ConfigError: A package or weights are missing, or the instance prior is unset.
            TransientError: The child process died.
        """
        try:
            found: Identity = self._answer()
        except EOFError:
            raise TransientError(
                f"the check of weights and packages ended with status {self._status()} before it answered: its error "
                "is above. Run the same command again"
            ) from None
        # Now: the child reads them at once, however many there are.
        self._send_exclusions()
        return found

    def domain(self) -> DomainRecord | None:
        """Return what the sample says; None if none was asked or can be decoded, or if an image killed the child.

        Raises:
            ConfigError: The preset's statistics of its domain are missing or damaged.
        """
        if self._child is None or self._sampled is None:
            return None
        try:
            found: DomainRecord | None = self._answer()
        except EOFError:
            # The run quarantines such an image.
            logger.warning("The check of a sample of SOURCE ended with status %s. It is left out.", self._status())
            found = None
        # A run may take days after this.
        self._end()
        return found

    def _answer(self) -> Any:
        """Return the next answer; an error is raised. Raises: EOFError: The child ended before it."""
        if self._child is None or self._child.stdout is None:
            raise EOFError
        try:
            found = pickle.load(self._child.stdout)  # from our own child
        except pickle.UnpicklingError:
            raise EOFError from None
        if isinstance(found, PseudorisError):
            raise found
        return found

    def _status(self) -> int | None:
        return None if self._child is None else self._child.wait()


def sample_check(
    config: RunConfig, source: Source, location: RunLocation, header: RunHeader | None, options: RunOptions
) -> LocalCheck:
    """Return a check that asks a sample of SOURCE where images are planned: by a new run, or by an extension.

    A run that went on with `--accept-domain` before is not asked again.

    Args:
        config: The configuration of this session.
        source: SOURCE.
        location: OUT.
        header: Of the run in OUT; None if there is none.
        options: Of this session.

    Raises:
        ConfigError: The rules that the run excludes images by are damaged.
        TransientError: Storage failed.
    """
    if header is None:
        return LocalCheck(config, source, options.exclusions)
    is_accepted = header.domain is not None and header.domain.is_accepted
    if not options.is_extension or is_accepted:
        return LocalCheck(config)
    return LocalCheck(config, source, stored_exclusions(location, header))


def identity_before_ray(
    config: RunConfig,
    header: RunHeader | None,
    source: str,
    *,
    location: RunLocation | None = None,
    meanwhile: Callable[[], None] = lambda: None,
    check: LocalCheck | None = None,
) -> Identity | None:
    """Accept what can be known of a run before Ray starts: its settings, and on this machine its packages and weights.

    If the work is done by a cluster that exists already, only the settings are compared: weights, packages and devices
    are those of its nodes.

    Args:
        config: The configuration of this session.
        header: Of the run in OUT; None if there is none.
        source: Its `Source.name` now.
        location: OUT; a refusal says whether anything of the run there is worth keeping.
        meanwhile: Called while the child process measures: it takes a second of another core.
        check: The child process that measures, and goes on with a sample of SOURCE; None if no sample is asked.

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
        if check is not None:
            check.start(measures_identity=False)
    else:
        here = _measured(config, meanwhile, check)
    if header is not None:
        known = header.identity if here is None else here
        # Only a process of the cluster knows its device.
        now = known.model_copy(update={"method": config.method(), "device_kind": header.identity.device_kind})
        try:
            check_identity(header, now, source, preset=config.preset, allow_mixed=config.placement.allow_mixed)
        except ConfigError as error:
            if location is None or not _is_fruitless(location):
                raise
            remedy = f"That run annotated no image: delete {location.root} to begin anew there"
            raise ConfigError(f"{error}\n{remedy}") from error
    return here


def _is_fruitless(location: RunLocation) -> bool:
    """Return whether every image that the run in `location` has committed is quarantined."""
    totals = Totals()
    for receipt in cached_receipts(location):
        totals.add(receipt)
    return totals.sum().is_fruitless


def _joins_cluster(address: str) -> bool:
    if ray.is_initialized() or named_cluster(address) is not None:
        return True
    # Where `auto` finds a cluster of this machine. Ray has no public name for it.
    return address != "local" and ray._private.utils.read_ray_address() is not None


def _measured(config: RunConfig, meanwhile: Callable[[], None], check: LocalCheck | None = None) -> Identity:
    if check is not None:
        check.start(measures_identity=True)
        meanwhile()
        return check.identity()
    with LocalCheck(config) as alone:
        return _measured(config, meanwhile, alone)


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
