"""Makes what the scorer needs of a caption: head noun, prompt and tokens. Called by `scorer.py`.

On a GPU's host `captioner` announces captions early, and processes (`python -m` of this module) work on them. A thread
would hold the GIL, and with it the thread that launches kernels (measured: launches of 0.02 s end with the texts, after
1.1 s). A process only makes the texts earlier: without it, or after its death, they must be the same.
"""

from __future__ import annotations

import logging
import pickle
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final
from weakref import WeakSet

from pseudoris.images.child_process import end_child, reserve_stdout, start_child
from pseudoris.primitives.clip_tokenizer import ClipTokenizer
from pseudoris.primitives.head_nouns import noun_prompt
from pseudoris.schemas.config import FilterConfig
from pseudoris.workers.faults.subprocess_stages import send
from pseudoris.workers.filtering.spacy_nouns import noun_finder

logger = logging.getLogger(__name__)

# Maps a caption to its head noun or None, its prompt, and the tokens of caption and prompt.
Texts = dict[str, tuple[str | None, str, list[int], list[int]]]


class TextMaker:
    """Makes the texts of captions; with `is_ahead` in processes, as soon as captions are announced."""

    def __init__(
        self, config: FilterConfig, tokeniser: ClipTokenizer, *, is_ahead: bool = False, timeout_s: float = 120.0
    ) -> None:
        """Load the noun finder; `ConfigError` if it is missing. A process without an answer in `timeout_s` is ended."""
        self._find_nouns, self._config, self._tokeniser = noun_finder(config), config, tokeniser
        # Each thread waits for its own process of 0.5 GB. spaCy needs 0.3 s an image, so it gets two processes.
        num_processes = 1 if config.nouns == "rules" else 2
        self._threads = ThreadPoolExecutor(num_processes, "texts") if is_ahead else None
        self._own, self._num_starts, self._begun = threading.local(), 0, dict[str, Future[Texts]]()
        self._timeout_s = timeout_s
        if is_ahead:
            _AHEAD.add(self)

    def begin(self, captions: Sequence[str]) -> None:
        """Start on the captions of an image."""
        new = [caption for caption in captions if caption not in self._begun]
        if self._threads and new:
            self._begun |= dict.fromkeys(new, self._threads.submit(self._ask, new))

    def __call__(self, captions: Sequence[str]) -> Texts:
        """Return the texts of captions, in order, and forget what was begun."""
        self.begin(captions)
        made: Texts = {}
        for future in dict.fromkeys(self._begun.values()):
            made |= future.result()
        self._begun = {}
        left = [caption for caption in captions if caption not in made]
        for caption, noun in zip(left, self._find_nouns(left), strict=True):
            prompt = noun_prompt(caption, noun, nouns=self._config.nouns)
            made[caption] = noun, prompt, self._tokeniser.tokens(caption), self._tokeniser.tokens(prompt)
        return {caption: made[caption] for caption in captions}

    def _ask(self, captions: Sequence[str]) -> Texts:
        """Return the texts of captions from a process; of none if it ends, or too many have ended."""
        child: Any = getattr(self._own, "child", None)
        try:
            if child is None and self._num_starts < _MAX_STARTS:
                self._num_starts += 1
                child = self._own.child = start_child(__name__)
                send(child.stdin, (self._config, self._tokeniser.context_length))
            if child is None:
                return {}
            watch = threading.Timer(self._timeout_s, child.kill)
            watch.start()
            try:
                send(child.stdin, captions)
                made: Texts = pickle.load(child.stdout)  # from our own child
            finally:
                watch.cancel()
            return made
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            logger.warning("A process for the filter's texts ended (%r). This process makes them.", error)
            self._own.child = None
            if child:
                end_child(child, timeout_s=_END_TIMEOUT_S)
            return {}


_MAX_STARTS: Final = 4
_END_TIMEOUT_S: Final = 5.0
# These are the text makers of this process: one, or none if no scorer works on a GPU.
_AHEAD: Final[WeakSet[TextMaker]] = WeakSet()


def announce(captions: Sequence[str]) -> None:
    """Tell a scorer of this process which captions of an image it will be given."""
    for maker in _AHEAD:
        maker.begin(captions)


def main() -> None:
    """Answer requests until the standard input ends."""
    requests, answers = reserve_stdout()
    with suppress(EOFError):
        config, context_length = pickle.load(requests)  # from our own parent
        maker = TextMaker(config, ClipTokenizer(context_length))
        while True:
            send(answers, maker(pickle.load(requests)))


if __name__ == "__main__":
    main()
