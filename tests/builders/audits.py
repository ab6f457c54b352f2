"""Drawn audits of a small run, with pictures that a browser shows; and a server of one, as a user starts it."""

import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from pseudoris.audit.audit_folder import AuditFolder
from pseudoris.audit.draw import DrawOptions, draw_audit
from pseudoris.store.runs.header import require_header
from tests.viewer.builders import annotated, picture, write_run

_ADDRESS = re.compile(r"(http://127\.0\.0\.1:\d+/\S+)")


_TEXTS = ("the red circle", "a circle", "the small dotted square", "<img src=x onerror=alert(1)> left")


def small_audit(folder: Path, **options) -> AuditFolder:
    """Draw an audit of a small run: 24 pairs, a quarter of them blind, and 3 images to search."""

    def make(entry):
        # The last text of each mask is not kept.
        texts = [(mask, f"{text} {mask}", 1.6 - at / 10, 1 - mask) for mask in (0, 1) for at, text in enumerate(_TEXTS)]
        return annotated(entry, 2, texts)

    location = write_run(folder / "run", *((f"{number}.png", make) for number in range(8)))
    chosen = DrawOptions(
        **{"num_pairs": 24, "num_double": 0, "num_images": 3, "blind_share": 0.25, "seed": 1, **options}
    )
    header = require_header(location)
    draw_audit(location, header, folder / "audit", chosen, load_bytes=lambda shard, key: picture())
    return AuditFolder.open(folder / "audit")


class Served:
    """A server in a process of its own.

    Attributes:
        address: The page, with its token.
        process: The server.
    """

    def __init__(self, audit: Path, *options: str) -> None:
        """Start it, and wait until it says where it is."""
        command = [sys.executable, "-m", "pseudoris", "audit", "serve", str(audit), "--no-open", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "NO_COLOR": "1"})
        for line in self.process.stderr:
            found = _ADDRESS.search(line)
            if found:
                self.address = found[1]
                return
        raise AssertionError(f"the server ended with {self.process.wait()}")

    def kill(self) -> None:
        """End it as the system would, without a word."""
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()

    def stop(self) -> str:
        """End it as Ctrl-C does; return what it said."""
        self.process.terminate()
        return self.process.stderr.read()


@contextmanager
def served(audit: Path, *options: str):
    """Serve an audit for a block."""
    server = Served(audit, *options)
    try:
        yield server
    finally:
        server.kill()
