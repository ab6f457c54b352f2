"""The child process that looks at this machine, and at a sample of SOURCE; it imports neither Ray nor torch.

`python -m pseudoris.pipeline.local_identity_main <LocalQuestions as JSON>` writes a pickled answer for each question:
an `Identity`, then a `DomainRecord` or None. An answer may be a PseudorisError. If there are exclusions, it reads them
before the second question, pickled, from its standard input: they may be longer than an argument.
"""

from __future__ import annotations

import logging
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import BinaryIO

from pseudoris.images.child_process import reserve_stdout
from pseudoris.images.pillow_formats import import_plugins
from pseudoris.pipeline.domain_sample import judge_sample
from pseudoris.pipeline.identity import measure_identity
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.domain import DomainRecord
from pseudoris.schemas.errors import PseudorisError
from pseudoris.schemas.frozen import FrozenModel
from pseudoris.store.sources import open_source
from pseudoris.store.sources.exclusions import Exclusions


class LocalQuestions(FrozenModel):
    """What the child process is asked.

    Attributes:
        config: The configuration of the session.
        measures_identity: Whether the identity of this machine is asked.
        source: SOURCE whose images are sampled; None if no sample is asked.
        exclude: As for `open_source`.
        has_exclusions: Whether exclusions are sent.
    """

    config: RunConfig
    measures_identity: bool = True
    source: str | None = None
    exclude: str | None = None
    has_exclusions: bool = False


def main() -> None:
    """Write the answers."""
    sent, answers = reserve_stdout()
    questions = LocalQuestions.model_validate_json(sys.argv[1])
    with answers:
        if questions.measures_identity:
            _answer(answers, lambda: _identity(questions.config))
        if questions.source is not None:
            # The parent lists SOURCE too, and tells the user what it finds.
            logging.disable()
            exclusions = pickle.load(sent) if questions.has_exclusions else Exclusions()  # from our own parent
            _answer(answers, lambda: _domain(questions, exclusions))


def _answer(answers: BinaryIO, find: Callable[[], object]) -> None:
    try:
        found = find()
    except PseudorisError as error:
        found = error
    pickle.dump(found, answers)
    answers.flush()


def _identity(config: RunConfig) -> object:
    import_plugins(config.images.decoder_plugins)
    return measure_identity(config)


def _domain(questions: LocalQuestions, exclusions: Exclusions) -> DomainRecord | None:
    config = questions.config
    import_plugins(config.images.decoder_plugins)
    listing = open_source(
        questions.source or "", config.source, exclude=questions.exclude, limits=config.placement.storage
    )
    decoding = partial(_killed_after, config.images.decoder_timeout_s)
    return judge_sample(config, listing, exclusions=exclusions, decoding=decoding)


@contextmanager
def _killed_after(seconds: float) -> Iterator[None]:
    """End this process if the block takes longer: a decoder that hangs does not return to Python."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    main()
