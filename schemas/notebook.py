"""What a notebook's kernel offers for output, and text fit for it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from html import escape
from typing import Any

from pseudoris.schemas.untrusted import printable


def notebook_display() -> Callable[..., Any] | None:
    """Return IPython's `display` if this process is a notebook's kernel, else None."""
    ipython = sys.modules.get("IPython")
    shell = ipython and ipython.get_ipython()
    return ipython.display.display if ipython is not None and hasattr(shell, "kernel") else None


def html_text(value: object) -> str:
    """Return text for a page: escaped, its control characters spelled."""
    return escape(printable(str(value)))
