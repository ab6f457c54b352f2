"""Drawn audits of a small run, with pictures that a browser shows; and files of verdicts as the page writes them."""

import hashlib
from dataclasses import replace
from pathlib import Path

from pseudoris.audit.audit_folder import AuditFolder, HeaderLine, Line
from pseudoris.audit.draw import DrawOptions, draw_audit
from pseudoris.schemas.shard import ExpressionRecord
from pseudoris.store.tables.open_run import OpenRun
from tests.builders.sources import GivenImages
from tests.viewer.builders import annotated, picture, write_run

_TEXTS = ("the red circle", "<img src=x onerror=alert(1)> left", "the small dotted square", "a circle")


def small_audit(folder: Path, *, absences=(), **options) -> AuditFolder:
    """Draw an audit of a small run: 24 pairs, and 3 images to search; each image has the given `absences`."""

    def make(entry):
        # The last text of each mask is not kept.
        texts = [(mask, f"{text} {mask}", 1.6 - at / 10, 1 - mask) for mask in (0, 1) for at, text in enumerate(_TEXTS)]
        image = annotated(entry, 2, texts)
        nothing = {"kind": "none", "confidence": 0.9, "kept": True, "source": "composer"}
        said = tuple(ExpressionRecord((), text, (), **nothing) for text in absences)
        return replace(image, expressions=(*image.expressions, *said))

    location = write_run(folder / "run", *((f"{number}.png", make) for number in range(8)))
    chosen = DrawOptions(**{"num_pairs": 24, "num_images": 3, "seed": 1, **options})
    draw_audit(OpenRun.at(location), folder / "audit", chosen, planned=GivenImages(lambda shard, key: picture()))
    return AuditFolder.open(folder / "audit")


def encode_line(line: Line, previous: str) -> tuple[str, str]:
    """Return the text of a line, with its line end, and its digest; `previous` is the digest of the line before."""
    body = line.model_dump_json()[:-1]
    digest = hashlib.sha256((previous + body).encode()).hexdigest()[:16]
    return f'{body},"digest":"{digest}"}}\n', digest


class VerdictFile:
    """Writes a rater's file line by line; begins it with a header, or continues it."""

    def __init__(self, path, header) -> None:
        self._path = path
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(encode_line(header, "")[0])

    @classmethod
    def open(cls, audit: Path, rater: str, known):
        return cls(audit / "verdicts" / f"{rater}.jsonl", HeaderLine(draw=known.draw, rater=rater))

    def append(self, answer) -> None:
        text = self._path.read_text()
        previous = text[text.rindex('"digest":"') + 10 :][:16]
        self._path.write_text(text + encode_line(answer, previous)[0])

    def __enter__(self):
        return self

    def __exit__(self, *raised) -> None:
        pass
