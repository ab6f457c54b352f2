"""Converts the errors that Ray raises on the driver back into the errors of the worker."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Final, TypeVar

import ray
from ray.exceptions import OutOfMemoryError, RayError

from pseudoris.schemas.errors import PseudorisError, TransientError

# Ray Data appends advice on its own settings to the message of every exception that passes through it.
_ADVICE: Final = "\nFailed to apply UDF transform after "

T = TypeVar("T")


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
        # Ray may also raise a class derived at run time from our class and its own, whose text is a page of traceback.
        if isinstance(link, PseudorisError) and not isinstance(link, RayError):
            link.args = (str(link).partition(_ADVICE)[0], *link.args[1:])
            return link
    for link in reversed(chain):
        if not isinstance(link, RayError):
            # A bug in a stage's code: its own exception, with the worker's traceback in the chain.
            return error
    return TransientError(_explanation(error))


def strip_traceback(error: BaseException) -> BaseException:
    """Return `error` without its traceback and causes; raise it outside of the handler that caught it.

    Its frames, and cycles in Ray Data, would keep the actors alive and their CPUs in use. The error of a worker is in
    the text.
    """
    error.__cause__ = error.__context__ = None
    gc.collect()
    return error.with_traceback(None)


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
        # Not __context__: an error that was handled on the way did not cause this one.
        pending += [link.__cause__, cause if isinstance(cause, BaseException) else None]


def _explanation(error: BaseException) -> str:
    first_line = str(error).strip().partition("\n")[0] or type(error).__name__
    remedy = "run the same command again to continue"
    if isinstance(error, OutOfMemoryError):
        return (
            "Ray ended a worker to protect the node's memory: lower shards.max_images or the number of actors; "
            f"{remedy}"
        )
    return f"Ray gave up ({type(error).__name__}: {first_line}); {remedy}"
