"""A human's annotation in memory, independent of its format: images by path, their masks, and their texts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.json_text import parse_json
from pseudoris.schemas.shard import clean_text
from pseudoris.schemas.uris import secret_in

# The limit of file systems; a longer name cannot exist.
_MAX_NAME_BYTES: Final = 255
_SHOWN_LETTERS: Final = 100


@dataclass(frozen=True, slots=True)
class HumanMask:
    """One annotated object.

    Attributes:
        index: Its position among all annotations of its image, in the file's order, so that ids do not depend on the
            chosen splits.
        annotation_id: Its id in the file.
        segmentation: In any of COCO's forms, unchecked.
        texts: Its expressions, in order: clean, distinct, none empty.
        splits: The split of each text; empty where the annotation has none.
    """

    index: int
    annotation_id: int
    segmentation: Any
    texts: tuple[str, ...] = ()
    splits: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HumanPhrase:
    """An expression that refers to several objects together, or to one.

    Attributes:
        targets: Indexes of its masks, ascending; at least one.
        text: Clean, as those of `HumanMask`.
        split: Its split; None where the annotation has none.
    """

    targets: tuple[int, ...]
    text: str
    split: str | None = None


@dataclass(frozen=True, slots=True)
class HumanImage:
    """One annotated image.

    Attributes:
        path: Relative to the folder of images, with `/`; never leads out of it.
        size: (H, W) in pixels as the file states them; None if it does not.
        masks: By index.
        phrases: Expressions besides those of the masks.
    """

    path: str
    size: tuple[int, int] | None
    masks: tuple[HumanMask, ...] = ()
    phrases: tuple[HumanPhrase, ...] = ()


@dataclass(slots=True)
class LeftOut:
    """Counts of what an import leaves out, by kind; for the summary."""

    counts: dict[str, int] = field(default_factory=dict)

    def add(self, what: str, count: int = 1) -> None:
        """Count `count` more of a kind."""
        if count:
            self.counts[what] = self.counts.get(what, 0) + count


@dataclass(frozen=True, slots=True)
class Annotation:
    """What the files of an annotation hold.

    Attributes:
        images: Each path once.
        digests: sha256 by name of the file.
        left_out: Counts of what was not imported.
    """

    images: tuple[HumanImage, ...]
    digests: Mapping[str, str]
    left_out: LeftOut


def relative_path(file_name: Any, *, where: str) -> str:
    """Return the path of an image's file, relative to the folder of images.

    Raises:
        ConfigError: It is not a path, or it leads outside: an annotation is an untrusted file.
    """
    if not isinstance(file_name, str) or not file_name:
        raise ConfigError(f"{where} has the file_name {shown(file_name)}. The path of an image is needed.")
    secret = secret_in(file_name)
    if secret is not None:
        raise ConfigError(f"{where}: file_name: {secret}")
    path = PurePosixPath(file_name)
    is_relative = not path.is_absolute() and "://" not in file_name
    if not path.parts or not is_relative or ".." in path.parts or "\0" in file_name:
        raise ConfigError(
            f"{where} has the file_name {shown(file_name)}, which is outside the folder of images. Make it relative "
            "to IMAGES (or to --prefix, if given)."
        )
    try:
        is_short = all(len(os.fsencode(part)) <= _MAX_NAME_BYTES for part in path.parts)
    except UnicodeEncodeError:
        is_short = False
    if not is_short:
        raise ConfigError(f"{where} has the file_name {shown(file_name)}, which no file system allows. Fix it.")
    return str(path)


def read_json(data: bytes, where: str) -> Any:
    """Return the content of a JSON file; `where` names it.

    Raises:
        ConfigError: It is not JSON.
    """
    try:
        return parse_json(data)
    except ValueError as error:
        raise ConfigError(
            f"{where} cannot be read as JSON ({type(error).__name__}). Download the file again."
        ) from error


def clean_texts(texts: Iterable[Any], left_out: LeftOut, *, where: str) -> tuple[str, ...]:
    """Return texts as the tables write them, each once, in order; empty and repeated ones are counted.

    Raises:
        ConfigError: One is not a text, or cannot be written as UTF-8.
    """
    found: dict[str, None] = {}
    for text in texts:
        if not isinstance(text, str) or not is_utf8(text):
            raise ConfigError(
                f"{where} has the expression {shown(text)}. An expression must be a UTF-8 text. Fix the file."
            )
        clean = clean_text(text)
        if not clean:
            left_out.add("expressions without a letter")
        elif clean in found:
            left_out.add("repeated expressions of one mask")
        else:
            found[clean] = None
    return tuple(found)


def shown(value: Any) -> str:
    """Return an untrusted value for a message: short, and never what shared pieces add up to."""
    if isinstance(value, str | int | float | bool) or value is None:
        text = repr(value) if isinstance(value, str) else str(value)
        return text if len(text) <= _SHOWN_LETTERS else f"{text[:_SHOWN_LETTERS]}…"
    return f"a {type(value).__name__}"


def is_utf8(text: str) -> bool:
    """Return whether a text of a foreign file can be written."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
