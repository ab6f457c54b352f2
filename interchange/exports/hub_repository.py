"""A dataset on the Hugging Face Hub that `export --format hf --push` creates and fills. Called by `cli/export.py`.

Its `_export.json` says which export it holds, and `whole` after the Hub listed every file. It names no place: DEST's
own record holds SOURCE, which is private. A push that was killed continues: what the Hub already has is not sent again.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from huggingface_hub import DatasetInfo, HfApi, constants
from huggingface_hub.errors import HfHubHTTPError

from pseudoris.files.hub_storage import HubStorage, hub_errors
from pseudoris.files.location import local_path
from pseudoris.files.storage import storage_errors
from pseudoris.interchange.exports.destination import EXPORT_NAME, has_earlier, holds
from pseudoris.interchange.exports.export_options import ExportRequest
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.untrusted import printable_json

# These files of the format `hf` are uploaded. DEST's own record is not, because it holds SOURCE.
_FILES: Final = ["README.md", "croissant.json", "data/*.parquet"]
# The Hub itself puts this file into a new dataset.
_OWN_FILES: Final = {".gitattributes"}
# A retry may help after these status codes. It does not help after other 4xx codes.
_PASSING: Final = frozenset({408, 409, 412, 425, 429})
_NO_TOKEN: Final = "--push needs a token that may write there: run `hf auth login`, or set HF_TOKEN."


@dataclass(frozen=True, slots=True)
class HubRepository:
    """A dataset's name, OWNER/NAME, and what it holds.

    Attributes:
        digest: `ExportRequest.digest` of the export that it is to hold.
        state: `empty`, `begun` (a push of this export was killed), or `whole` (nothing is left to do).
        folder: DEST, which holds the export, or will. Its card may be edited.
    """

    name: str
    page: str
    digest: str
    state: str
    folder: Path

    @classmethod
    def open(cls, name: str, request: ExportRequest, *, is_public: bool) -> Self:
        """Create the dataset of a name if there is none, and read what it holds.

        This comes before the export is written, so that a token without rights is known before hours of writing. A
        ConfigError says what is missing, or that something else stands there or in DEST; a TransientError that the Hub
        does not answer.
        """
        folder = local_path(request.destination.root)
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
            raise ConfigError(f"--push {name!r} is not the name of a dataset. Give OWNER/NAME.")
        if request.options.license is None:
            raise ConfigError(
                "--push needs --license, that of the images: cc-by-4.0, other, … "
                "(https://huggingface.co/docs/hub/repositories-licenses). The run does not know it."
            )
        if folder is None:
            raise ConfigError(
                f"--push reads the export from a disk, and DEST is {request.destination.root}: name a folder."
            )
        if not holds(request.destination, "hf", request.digest):
            has_earlier(request.destination, "hf", ["data"], is_overwriting=request.is_overwriting)
        with _explained(f"{constants.ENDPOINT}/datasets/{name}", "create"):
            page = HfApi().create_repo(name, repo_type="dataset", private=not is_public, exist_ok=True)
            name = page.repo_id
            info = HfApi().dataset_info(name, files_metadata=True)
            listed = _listed(info)
            root = HubStorage.at(f"hf://datasets/{name}@{info.sha}")
            marker = root.read(EXPORT_NAME) if EXPORT_NAME in listed else b""
        states = {_record(request.digest, state): state for state in ("begun", "whole")}
        if listed and marker not in states:
            raise ConfigError(
                f"{page} exists and holds something else than this export. Give --push another name, or delete "
                "it there."
            )
        state = states.get(marker, "empty")
        if state == "whole" and _lacking(folder, listed):
            # Files were deleted there, or the mark was set before they arrived.
            state = "begun"
        return cls(name, str(page), request.digest, state, folder)

    def upload(self) -> str:
        """Upload DEST, mark it as whole, and return a line on what stands there.

        If the upload breaks off, a TransientError, the same call continues it. ConfigError if the token may not write
        there, or the Hub refuses the card.
        """
        with _explained(self.page, "push to"):
            if self.state != "begun":
                self._mark("begun")
            HfApi().upload_folder(
                repo_id=self.name, repo_type="dataset", folder_path=self.folder, allow_patterns=_FILES
            )
            info = HfApi().dataset_info(self.name, files_metadata=True)
            listed = _listed(info)
            if lacking := _lacking(self.folder, listed):
                raise OSError(errno.EIO, f"the Hub lists {len(listed):,} files, and lacks {', '.join(lacking[:3])}")
            self._mark("whole")
        visibility = "private" if info.private else "public"
        return f"{self.page}: {len(listed.keys() - {EXPORT_NAME}):,} files, {visibility}"

    def _mark(self, state: str) -> None:
        data = _record(self.digest, state)
        HfApi().upload_file(repo_id=self.name, repo_type="dataset", path_in_repo=EXPORT_NAME, path_or_fileobj=data)


def _listed(info: DatasetInfo) -> dict[str, int | None]:
    """Return the files that the Hub lists of a dataset, with their sizes, without those that it puts there itself."""
    return {each.rfilename: each.size for each in info.siblings or () if each.rfilename not in _OWN_FILES}


def _lacking(folder: Path, listed: Mapping[str, int | None]) -> list[str]:
    """Return the files of an export that are not listed, or with another size; the card may be edited on the Hub."""
    paths = [path for pattern in _FILES for path in folder.glob(pattern)]
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths} or dict.fromkeys(_FILES[:2], 0)
    return [
        name for name, size in sizes.items() if name not in listed or ("/" in name and listed[name] not in (None, size))
    ]


def _record(digest: str, state: str) -> bytes:
    return printable_json({"format": "hf", "state": state, "request": digest}, indent=2).encode() + b"\n"


@contextmanager
def _explained(page: str, action: str) -> Iterator[None]:
    with storage_errors(action, page), hub_errors():
        try:
            yield
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status >= 500 or status in _PASSING:
                raise
            refused = f"the Hub refuses it ({status}): {error.server_message}"
            reason = _NO_TOKEN if status in (401, 403, 404) else refused
            raise ConfigError(f"cannot {action} {page}: {reason}") from error
        # The client raises ValueError for a card that the Hub refuses, and RuntimeError for a failed upload.
        except ValueError as error:
            raise ConfigError(f"cannot {action} {page}: {' '.join(str(error).split())}") from error
        except RuntimeError as error:
            raise OSError(errno.EIO, str(error)) from error
