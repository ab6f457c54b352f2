"""Objects of an S3 store as the files of a run: created on the condition of absence, listed by pages, never renamed."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self, cast

from schemas.placement import StorageConfig
from store.local_files import ListedFile
from store.s3_answers import Upload
from store.s3_client import S3Bucket
from store.s3_reader import S3Reader

# Of a plan part one row group is read, of a manifest everything.
_WINDOW_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class S3Files:
    """The operations of `LocalFiles` below a prefix of a bucket; paths are relative to it.

    Attributes:
        bucket: The bucket.
        prefix: Without a slash at its end; empty for the bucket as a whole.
    """

    bucket: S3Bucket
    prefix: str

    @classmethod
    def at(cls, uri: str, endpoint_url: str | None, limits: StorageConfig) -> Self:
        """Return the files below `s3://bucket/prefix`; nothing is asked yet."""
        name, _, prefix = uri.partition("://")[2].partition("/")
        return cls(S3Bucket(name, endpoint_url, limits), prefix.strip("/"))

    def uri(self, path: str) -> str:
        """Return the object's uri, `s3://bucket/prefix/…`."""
        return self.bucket.uri(self._at(path)).rstrip("/")

    def open(self, path: str) -> BinaryIO:
        """Return the object opened for ranged reading, seekable; it stays one version."""
        reader = S3Reader(self.bucket, self._at(path), window_bytes=_WINDOW_BYTES)
        # Whether it is there is asked now, as a disk does; its size and its tail come with the answer.
        reader.seek(0, io.SEEK_END)
        reader.seek(0)
        return cast("BinaryIO", reader)

    def read(self, path: str) -> bytes:
        """Return the whole object, from one request."""
        return self.bucket.get(self._at(path)).data

    def size(self, path: str) -> int | None:
        """Return the object's size in bytes, None where there is none."""
        found = self.bucket.look(self._at(path))
        return None if found is None else found.size_bytes

    def list(self, folder: str) -> Iterator[ListedFile]:
        """Yield the objects directly below `folder`, a page at a time: one request a thousand."""
        prefix = f"{self._at(folder)}/".lstrip("/")
        for page in self.bucket.pages(prefix, delimiter="/"):
            for each in page.objects:
                if each.key != prefix:
                    yield ListedFile(each.key[len(prefix) :], each.size_bytes, each.modified_s)

    def list_temporary(self, folder: str) -> Iterator[tuple[str, float]]:
        """Yield nothing: an unfinished put leaves no object, only an upload."""
        yield from ()

    def list_uploads(self, paths: re.Pattern[str]) -> Iterator[Upload]:
        """Yield the multipart uploads of the files that `paths` matches as a whole, begun and not completed."""
        below = f"{self.prefix}/".lstrip("/")
        for upload in self.bucket.uploads(below):
            if paths.fullmatch(upload.key[len(below) :]):
                yield upload

    def abort_upload(self, upload: Upload) -> None:
        """Give the upload up; nothing happens where it is gone."""
        self.bucket.abort(upload)

    def create_once(self, path: str, data: bytes) -> bool:
        """Create the object; False where another writer's stands."""
        return self.bucket.create(self._at(path), data)

    def put(self, path: str, data: bytes) -> None:
        """Write the object in place of whatever stands there."""
        self.bucket.put(self._at(path), data)

    def put_file(self, path: str, local: Path) -> None:
        """Write the object from a file of this disk, in place of whatever stands there."""
        self.bucket.put_file(self._at(path), local)

    def delete(self, path: str) -> None:
        """Delete the object; nothing happens where there is none."""
        self.bucket.delete(self._at(path))

    def _at(self, path: str) -> str:
        return "/".join(filter(None, (self.prefix, path)))
