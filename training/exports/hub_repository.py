"""A dataset on the Hugging Face Hub that `export --format hf --push` creates and fills; called by `cli/export.py`.

Its `_export.json` says which export it holds, and `whole` once every file is there. It names no place: DEST's own
record holds SOURCE, which is private. A push that was killed goes on: what the Hub already has is not sent again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, RepositoryNotFoundError

from pseudoris.schemas.config import StorageConfig
from pseudoris.schemas.errors import ConfigError, TransientError
from pseudoris.schemas.untrusted import parse_json, printable_json
from pseudoris.store.files.hub_storage import HubStorage, hub_errors
from pseudoris.store.files.storage_at import local_path
from pseudoris.training.exports.destination import EXPORT_NAME, earlier_record
from pseudoris.training.exports.export_job import ExportRequest

# What the format `hf` writes, without DEST's own record.
_FILES: Final = ["README.md", "croissant.json", "data/*.parquet"]
# What the Hub itself puts into a new dataset.
_OWN_FILES: Final = {".gitattributes"}
_NAME: Final = re.compile(r"[\w.-]+(/[\w.-]+)?")
# Of the answers 4xx, those that another try may change.
_PASSING: Final = frozenset({408, 409, 412, 425, 429})
_NO_TOKEN: Final = "--push needs a token that may write there: run `hf auth login`, or set HF_TOKEN."


@dataclass(frozen=True, slots=True)
class HubRepository:
    """A dataset's name, and what stands there.

    Attributes:
        name: OWNER/NAME.
        digest: Of the export that is to stand there (`ExportRequest.digest`).
        state: `empty`, `begun` (a push of this export was killed), or `whole` (nothing is left to do).
        folder: DEST.
    """

    name: str
    digest: str
    state: str
    folder: Path

    @classmethod
    def open(cls, name: str, request: ExportRequest, *, is_public: bool) -> Self:
        """Look at the dataset of a name, before the export is written. If there is none, create an empty one.

        So a token without the right to create it is known before hours of writing.

        Raises:
            ConfigError: There is no token or no licence, the token may not write there, or something else stands there.
            TransientError: The Hub does not answer.
        """
        folder = local_path(request.destination.root)
        if not _NAME.fullmatch(name):
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
        with _explained(name, "look at"):
            try:
                owner = HfApi().whoami()["name"]
            except LocalTokenNotFoundError:
                raise ConfigError(_NO_TOKEN) from None
        name = name if "/" in name else f"{owner}/{name}"
        state = _state(name, request.digest)
        if state is None:
            with _explained(name, "create"):
                HfApi().create_repo(name, repo_type="dataset", private=not is_public)
        return cls(name, request.digest, state or "empty", folder)

    @property
    def page(self) -> str:
        """Its address."""
        return f"{constants.ENDPOINT}/datasets/{self.name}"

    def is_written(self, request: ExportRequest) -> bool:
        """Return whether DEST holds the export already: then it is not written again. Its card may have been edited."""
        record = earlier_record(request.destination) or {}
        return record.get("state") == "whole" and record.get("request") == self.digest

    def upload(self) -> str:
        """Upload DEST, compare what the Hub then lists, and mark it as whole; return a line on what stands there.

        Raises:
            ConfigError: The token may not write there, or the Hub refuses the card.
            TransientError: The upload broke off; the same call continues it.
        """
        api, paths = HfApi(), [path for pattern in _FILES for path in self.folder.glob(pattern)]
        sizes = {str(path.relative_to(self.folder)): path.stat().st_size for path in paths}
        where: dict[str, Any] = {"repo_id": self.name, "repo_type": "dataset"}
        with _explained(self.name, "push to"):
            if self.state != "begun":
                self._mark(api, "begun")
            message = "Upload an export of pseudoris"
            api.upload_folder(folder_path=self.folder, allow_patterns=_FILES, commit_message=message, **where)
            found = {each.path: getattr(each, "size", None) for each in api.list_repo_tree(recursive=True, **where)}
            missing = [path for path, size in sizes.items() if found.get(path) != size]
            if missing:
                raise TransientError(
                    f"{self.page} lacks {len(missing)} file(s), such as {missing[0]}; run the same command again"
                )
            self._mark(api, "whole")
            is_private = api.dataset_info(self.name).private
        return f"{self.page}: {len(sizes):,} files, {'private' if is_private else 'public'}"

    def _mark(self, api: HfApi, state: str) -> None:
        record = {"format": "hf", "state": state, "request": self.digest}
        api.upload_file(
            path_or_fileobj=printable_json(record, indent=2).encode() + b"\n",
            path_in_repo=EXPORT_NAME,
            repo_id=self.name,
            repo_type="dataset",
            commit_message=f"Export of pseudoris: {state}",
        )


def _state(name: str, digest: str) -> str | None:
    api, page = HfApi(), f"{constants.ENDPOINT}/datasets/{name}"
    with _explained(name, "look at"):
        try:
            names = {each.rfilename for each in api.dataset_info(name).siblings or ()}
        except RepositoryNotFoundError:
            return None
        if names <= _OWN_FILES:
            return "empty"
        marker = (
            HubStorage.at(f"hf://datasets/{name}", StorageConfig()).read(EXPORT_NAME) if EXPORT_NAME in names else b"{}"
        )
    with suppress(ValueError, LookupError, TypeError):
        found = parse_json(marker)
        if found["request"] == digest:
            return str(found["state"])
    raise ConfigError(
        f"{page} exists and holds something else than this export. Give --push another name, or delete it there."
    )


@contextmanager
def _explained(name: str, action: str) -> Iterator[None]:
    """Convert errors of the Hub's client to the project's."""
    page = f"{constants.ENDPOINT}/datasets/{name}"
    try:
        with hub_errors():
            yield
    except PermissionError as error:
        raise ConfigError(f"cannot {action} {page}. {_NO_TOKEN}") from error
    except OSError as error:
        cause = error.__cause__
        if (
            isinstance(cause, HfHubHTTPError)
            and 400 <= (status := cause.response.status_code) < 500
            and status not in _PASSING
        ):
            raise ConfigError(
                f"cannot {action} {page}: the Hub refuses it ({status}): {cause.server_message}"
            ) from error
        raise TransientError(
            f"cannot {action} {page}: {error.strerror}; run the same command again to continue"
        ) from error
    # The client's own for a card that the Hub does not take, and for a large file whose upload failed.
    except ValueError as error:
        raise ConfigError(f"cannot {action} {page}: {' '.join(str(error).split())}") from error
    except RuntimeError as error:
        raise TransientError(f"cannot {action} {page}: {error}; run the same command again to continue") from error
