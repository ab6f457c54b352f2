"""Adds a file of verdicts that the page wrote to an audit."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from pseudoris.audit.audit_folder import AuditFolder
from pseudoris.audit.verdict_file import SUFFIX, VERDICTS_FOLDER, RaterAnswers, read_answers
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.regular_files import open_regular
from pseudoris.store.location import RunLocation


@dataclass(frozen=True, slots=True)
class Added:
    """What a file added.

    Attributes:
        rater: Whose it is.
        num_new: Lines that the audit did not have.
        answers: What stands of the rater now.
    """

    rater: str
    num_new: int
    answers: RaterAnswers


def add_file(audit: AuditFolder, file: Path) -> Added:
    """Add a file of verdicts. Adding it again, or an earlier state of it, changes nothing; a later state continues it.

    Raises:
        ConfigError: It is refused as by `read_answers`, it cannot be read, the audit has other verdicts of a rater
            with this name, or the disk refuses.
    """
    try:
        with open_regular(file) as stream:
            data = stream.read()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror or error})") from error
    folder = os.open(audit.path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Another `audit add` would replace the file that this one has read. Closing gives the lock back.
        fcntl.flock(folder, fcntl.LOCK_EX)
        return _add(audit, file, data)
    finally:
        os.close(folder)


def _add(audit: AuditFolder, file: Path, data: bytes) -> Added:
    answers = read_answers(data, str(file), audit.known)
    data = data[: answers.num_bytes]
    location, name = RunLocation.open(str(audit.path)), f"{VERDICTS_FOLDER}/{answers.rater}{SUFFIX}"
    path = audit.path / name
    if found := location.obstacle(name):
        raise ConfigError(f"{path} is {found}, not a file of verdicts: move it out of the audit")
    before = location.read_bytes(name) if location.exists(name) else b""
    if before:
        before = before[: read_answers(before, str(path), audit.known, rater=answers.rater).num_bytes]
    if before.startswith(data):
        return Added(answers.rater, 0, read_answers(before, str(path), audit.known) if before else answers)
    if not data.startswith(before):
        raise ConfigError(
            f"{file}, line {_first_difference(data, before)}: the audit has other verdicts of a rater "
            f"{answers.rater!r} in {path}. Two people, or two devices, need two names"
        )
    location.replace(name, data)
    return Added(answers.rater, data.count(b"\n") - before.count(b"\n"), answers)


def _first_difference(data: bytes, before: bytes) -> int:
    pairs = zip(data.split(b"\n"), before.split(b"\n"), strict=False)
    return next(number for number, (mine, theirs) in enumerate(pairs, start=1) if mine != theirs)
