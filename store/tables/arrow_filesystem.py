"""A pyarrow filesystem that reads a run through our storage layer, with its credentials, endpoint and retries."""

from __future__ import annotations

from typing import Any, Final, NoReturn

import pyarrow as pa
from pyarrow import fs

from pseudoris.store.location import RunLocation

_READ_ONLY: Final = "this filesystem is read-only: it does not change the files of a run"


def arrow_filesystem(location: RunLocation) -> fs.FileSystem:
    """Return a filesystem that reads paths of the form `location.uri(path)`. On a disk it is pyarrow's own, faster one.

    It can be pickled, so that the workers of a data loader can receive a dataset that uses it.
    """
    return fs.PyFileSystem(_RunFiles(location)) if "://" in location.root else fs.LocalFileSystem()


class _RunFiles(fs.FileSystemHandler):  # type: ignore[misc]  # pyarrow has no types
    """Reads the files of one run by their full paths or uris."""

    def __init__(self, location: RunLocation) -> None:
        self._location = location

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _RunFiles) and other._location.root == self._location.root

    def __hash__(self) -> int:
        return hash(self._location.root)

    def get_type_name(self) -> str:
        """Return the name of this type of filesystem."""
        return "pseudoris"

    def normalize_path(self, path: str) -> str:
        """Return the path unchanged: it is absolute already."""
        return path

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        """Return kind and size of each file."""
        sizes = [self._location.size(self._relative(path)) for path in paths]
        return [
            fs.FileInfo(path, fs.FileType.NotFound if size is None else fs.FileType.File, size=size)
            for path, size in zip(paths, sizes, strict=True)
        ]

    def open_input_file(self, path: str) -> pa.NativeFile:
        """Return the file opened for random access."""
        return pa.PythonFile(self._location.open_input(self._relative(path)), mode="r")

    def open_input_stream(self, path: str) -> pa.NativeFile:
        """Return the file opened for reading from the start."""
        return self.open_input_file(path)

    def _relative(self, path: str) -> str:
        return path.removeprefix(self._location.uri("x").removesuffix("x"))

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError(_READ_ONLY)

    get_file_info_selector = create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = _refuse
    delete_file = move = copy_file = open_output_stream = open_append_stream = _refuse
