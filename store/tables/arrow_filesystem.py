"""The files of a run as a pyarrow filesystem, through our own storage: its credentials, its endpoint, its retries."""

from __future__ import annotations

from typing import Any, Final, NoReturn

import pyarrow as pa
from pyarrow import fs

from pseudoris.store.location import RunLocation

_READ_ONLY: Final = "the files of a run are read here, and never changed"


def arrow_filesystem(location: RunLocation) -> fs.FileSystem:
    """Return a filesystem that reads `location.uri(path)`; pyarrow's own on a disk, where it is faster.

    It pickles, so that a dataset on it travels to the workers of a data loader.
    """
    return fs.PyFileSystem(_RunFiles(location)) if "://" in location.root else fs.LocalFileSystem()


class _RunFiles(fs.FileSystemHandler):  # type: ignore[misc]  # pyarrow has no types
    """Reads the files of one run, named by their full addresses."""

    def __init__(self, location: RunLocation) -> None:
        self._location = location

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _RunFiles) and other._location.root == self._location.root

    def __hash__(self) -> int:
        return hash(self._location.root)

    def get_type_name(self) -> str:
        """Return what pyarrow calls it."""
        return "pseudoris"

    def normalize_path(self, path: str) -> str:
        """Return the path as it is: addresses are whole already."""
        return path

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        """Return kind and size of each file."""
        sizes = [self._location.size(self._relative(path)) for path in paths]
        return [
            fs.FileInfo(path, fs.FileType.NotFound if size is None else fs.FileType.File, size=size)
            for path, size in zip(paths, sizes, strict=True)
        ]

    def open_input_file(self, path: str) -> pa.NativeFile:
        """Return the file opened for reading at any place."""
        return pa.PythonFile(self._location.open_input(self._relative(path)), mode="r")

    def open_input_stream(self, path: str) -> pa.NativeFile:
        """Return the file opened for reading from its start."""
        return self.open_input_file(path)

    def _relative(self, path: str) -> str:
        return path.removeprefix(self._location.uri("x").removesuffix("x"))

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError(_READ_ONLY)

    get_file_info_selector = create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = _refuse
    delete_file = move = copy_file = open_output_stream = open_append_stream = _refuse
