"""From what Ray raises on the driver back to what went wrong in a worker."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Final

from ray.exceptions import OutOfMemoryError, RayError

from schemas.errors import PseudorisError, TransientError

# Ray Data writes advice on its own settings into the message of whatever passes through it.
_ADVICE: Final = "\nFailed to apply UDF transform after "


def original_error(error: BaseException) -> BaseException:
    """Return the project's own error inside `error`, or what should be raised in its stead.

    `RayTaskError.cause` is what a worker raised; where that is a fault of a stage's code, `error` itself
    comes back, with the worker's traceback in its text. Errors of Ray (a lost node, a lost object) become
    `TransientError`: what is committed stands, and another start continues.
    """
    chain = list(causes(error))
    for link in chain:
        # Ray also raises a class made on the spot from ours and its own, whose text is a page of traceback.
        if isinstance(link, PseudorisError) and not isinstance(link, RayError):
            link.args = (str(link).partition(_ADVICE)[0], *link.args[1:])
            return link
    for link in reversed(chain):
        if not isinstance(link, RayError):
            # A fault of a stage's code: its own exception, with the worker's traceback in the chain.
            return error
    return TransientError(_explanation(error))


def let_go(error: BaseException) -> BaseException:
    """Return `error` without what it was raised from, to be raised outside of the handler that caught it.

    Its frames, and cycles in Ray Data, would keep the actors and their CPUs taken. What went wrong in a worker stands
    in the text.
    """
    error.__cause__ = error.__context__ = None
    gc.collect()
    return error.with_traceback(None)


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield `error` and all that it was raised from, outermost first, each once."""
    pending: list[BaseException | None] = [error]
    seen: set[int] = set()
    while pending:
        link = pending.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        cause = getattr(link, "cause", None)
        # Not __context__: an error handled on the way is not why this one was raised.
        pending += [link.__cause__, cause if isinstance(cause, BaseException) else None]


def _explanation(error: BaseException) -> str:
    first_line = str(error).strip().partition("\n")[0] or type(error).__name__
    remedy = "run the same command again to continue; committed shards are kept"
    if isinstance(error, OutOfMemoryError):
        return f"Ray ended a worker to protect the node's memory: lower shards.max_images or the actors; {remedy}"
    return f"Ray gave up ({type(error).__name__}: {first_line}); {remedy}"
