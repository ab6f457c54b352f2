"""Whether a preset's models know the images of SOURCE: a child process scores a sample of them while Ray starts.

A child, because an image may hang or crash a decoder, and because Ray starts meanwhile. Neither has torch. The
sample: up to 16 files, evenly spaced over the first 4,096 that are listed; if SOURCE has fewer files, of each tar
or table its first images, so that the sample has 16. Images that cannot be read or decoded are left out, and those that
the run excludes by name or sha256.

`python -m pseudoris.pipeline.domain_sample` is the child: it reads its question, pickled, from its standard input, and
writes a pickled `DomainRecord`, None or `PseudorisError`.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import pickle
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final

from pseudoris.images.child_process import reserve_stdout, start_child
from pseudoris.images.pixels import decode_upright, import_plugins
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.errors import ConfigError, ImageError, PseudorisError
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.run_records import DomainRecord
from pseudoris.store.exclusions.exclusion_rules import ExclusionMatcher, Exclusions
from pseudoris.store.files.storage import StoredFile
from pseudoris.store.runs.plan import assign_shards
from pseudoris.store.runs.receipts import spread_evenly
from pseudoris.store.sources import Source, SourceItem, open_source
from pseudoris.store.sources.planned_images import read_or_refused
from pseudoris.store.sources.source import Format
from pseudoris.workers.domain_scorer import load_scorer

logger = logging.getLogger(__name__)

NUM_SAMPLED: Final = 16
# Four pages of a bucket's listing.
_NUM_LISTED: Final = 4_096
# Of pictures of 100 megapixels a few must do: a run waits for the answer.
_PATIENCE_S: Final = 10.0
_MAIN: Final = "pseudoris.pipeline.domain_sample"
# Ray starts meanwhile.
_ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@contextmanager
def sampled(
    config: RunConfig, source: Source, exclusions: Exclusions | None
) -> Iterator[Callable[[], DomainRecord | None]]:
    """Let a child process judge a sample of `source` during the block.

    Yields a function that waits for the answer: None if no sample was asked (the preset has no `domain`, or
    `exclusions`, those of the run, is None) or can be decoded, or if an image killed the child. It raises ConfigError
    if the preset's statistics or weights are missing or damaged.
    """
    if config.domain is None or exclusions is None:
        yield lambda: None
        return
    child = start_child(_MAIN, environment=_ONE_THREAD)
    try:
        # A child that has died says so where its answer is read.
        with contextlib.suppress(BrokenPipeError):
            pickle.dump((config, source.name, source.exclude, exclusions), child.stdin)  # type: ignore[arg-type]
            child.stdin.flush()  # type: ignore[union-attr]
        yield partial(_answer, child)
    finally:
        child.kill()
        child.communicate()


def _answer(child: subprocess.Popen[bytes]) -> DomainRecord | None:
    answer, _ = child.communicate()
    try:
        found: DomainRecord | PseudorisError | None = pickle.loads(answer)  # from our own child
    except (EOFError, pickle.UnpicklingError):
        # The run quarantines such an image.
        logger.warning("The check of a sample of SOURCE ended with status %s. It is left out.", child.returncode)
        return None
    if isinstance(found, PseudorisError):
        raise found
    return found


def main() -> None:
    """Be the child."""
    sent, answers = reserve_stdout()
    try:
        config, source, exclude, exclusions = pickle.load(sent)  # from our own parent
    except (EOFError, pickle.UnpicklingError):
        # An interrupt ended the parent before it had asked.
        return
    # The parent lists SOURCE too, and tells the user what it finds.
    logging.disable()
    found: DomainRecord | PseudorisError | None
    try:
        import_plugins(config.images.decoder_plugins)
        listing = open_source(source, config.source, exclude=exclude, limits=config.placement.storage, recorded=source)
        found = judge_sample(config, listing, exclusions)
    except PseudorisError as error:
        found = error
    with answers:
        pickle.dump(found, answers)


def judge_sample(config: RunConfig, source: Source, exclusions: Exclusions) -> DomainRecord | None:
    """Return what a sample of `source` says; None if the preset has no score, or no image of the sample can be decoded.

    Of the run's `exclusions` rules by perceptual hash are ignored.
    """
    score = load_scorer(config)
    if score is None:
        return None
    max_score, began_s = score.statistics.max_score, time.monotonic()
    scores: list[float] = []
    try:
        for data in _sampled_bytes(source, config, ExclusionMatcher(exclusions)):
            try:
                with _killed_after(config.images.decoder_timeout_s):
                    scores.append(score(decode_upright(data, config.images)))
            except (ImageError, MemoryError):
                continue
            if time.monotonic() - began_s > _PATIENCE_S:
                break
    except PseudorisError:
        # The listing of the run reports what is wrong with SOURCE, and in full.
        pass
    if not scores:
        return None
    return DomainRecord(
        num_sampled=len(scores),
        num_outside=sum(each > max_score for each in scores),
        max_score=round(max_score, 3),
        median_score=round(statistics.median(scores), 3),
    )


@contextmanager
def _killed_after(seconds: float) -> Iterator[None]:
    """End this process if the block takes longer: a decoder that hangs does not return to Python."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def accepted_domain(
    found: DomainRecord | None, config: RunConfig, notify: Callable[[str], None] = lambda text: None
) -> DomainRecord | None:
    """Return what the run's header records of `found`; tell `notify` if a part of the sample is outside.

    Raises:
        ConfigError: Most of the sample is outside, and `placement.accept_domain` is off.
    """
    if found is None or not found.num_outside:
        return found
    if found.is_mostly_outside and not config.placement.accept_domain:
        raise ConfigError(
            f"the preset {config.preset!r} does not know images like those of SOURCE: {found.finding}. Its masks and "
            "captions would be nonsense. Use a preset for such images (photographs: --preset base), or go on all the "
            "same with --accept-domain"
        )
    record = found.model_copy(update={"is_accepted": found.is_mostly_outside})
    notify(record.warning or "")
    return record


def sample_items(source: Source) -> Iterator[SourceItem]:
    """Yield the images of the sample; see the module."""
    files = list(itertools.islice(source.files(), _NUM_LISTED))
    chosen: Sequence[tuple[StoredFile, Format]] = [
        files[place] for place in sorted(spread_evenly(range(len(files)), NUM_SAMPLED))
    ]
    if chosen:
        num_each = -(-NUM_SAMPLED // len(chosen))
        for file, format_ in chosen:
            yield from itertools.islice(source.items(file, format_), num_each)


def _sampled_bytes(source: Source, config: RunConfig, excluded: ExclusionMatcher) -> Iterator[bytes]:
    for item in sample_items(source):
        for reading in read_or_refused(source.root, list(assign_shards([item], config.shards)), config):
            data = reading.outcome
            if isinstance(data, bytes) and excluded.of_recorded(item.key, sha256_hex(data)) is None:
                yield data


if __name__ == "__main__":
    main()
