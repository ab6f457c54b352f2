"""A stub of the Hub's API: data sets with commits, large files apart, tokens, and failures as told."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import pytest
from huggingface_hub import constants

from tests.builders.web import Answering, serving
from tests.builders.weight_server import use_as_hub

TOKEN = "hf_" + "x" * 34
LARGE = (".parquet", ".jpg", ".png", ".tar")
_PAGE = 3


@dataclass
class Dataset:
    """The files of each commit, the latest last; `.gitattributes` is there from the start, as on the Hub.

    `branches` gives the number of a branch's commit.
    """

    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{".gitattributes": b"*.parquet lfs"}])
    is_private: bool = False
    is_gated: bool = False
    branches: dict[str, int] = field(default_factory=lambda: {"main": -1})

    def sha(self, number: int = -1) -> str:
        number = number % len(self.commits)
        return hashlib.sha1(repr((number, sorted(self.commits[number].items()))).encode()).hexdigest()

    def at(self, revision: str) -> dict[str, bytes] | None:
        if revision in self.branches:
            return self.commits[self.branches[revision]]
        return next((files for number, files in enumerate(self.commits) if self.sha(number) == revision), None)


@dataclass
class Hub:
    """What is on the Hub, and what was asked of it.

    Attributes:
        blobs: The large files that were sent, by sha256; a commit may name those alone.
        requests: Method, path and whether a token came with it.
        failures: Each answers the next request of which the path holds its first text, by a status and headers.
        on_blob: Takes a large file that was sent; returns whether it is kept. If not, its sender gets no answer.
        large: How the names of large files end.
        harms: Each changes the bytes of the next answer with a file's bytes, or makes it endless (None).
        loses: Files that no commit keeps.
        has_end: Whether listings end; if not, each page is empty, and has a new cursor.
    """

    url: str
    datasets: dict[str, Dataset] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str, bool]] = field(default_factory=list)
    failures: list[tuple[str, int, dict[str, str]]] = field(default_factory=list)
    on_blob: Callable[[bytes], bool] = lambda data: True
    large: tuple[str, ...] = LARGE
    harms: list[Callable[[bytes], bytes] | None] = field(default_factory=list)
    has_end: bool = True
    loses: set[str] = field(default_factory=set)

    def add(self, name: str, files: dict[str, bytes], **options: bool) -> Dataset:
        dataset = self.datasets.setdefault(name, Dataset(**options))
        dataset.commits.append({**dataset.commits[-1], **files})
        self.blobs |= {_sha256(data): data for path, data in files.items() if path.endswith(LARGE)}
        return dataset

    def sent(self, method: str, text: str) -> list[str]:
        return [path for asked, path, _ in self.requests if asked == method and text in path]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Handler(Answering):
    hub: Hub

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65_537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        path, has_token = self.path, self.headers.get("Authorization") == f"Bearer {TOKEN}"
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.hub.requests.append((self.command, path, "Authorization" in self.headers))
        for failure in self.hub.failures:
            if failure[0] in path:
                self.hub.failures.remove(failure)
                self.answer(failure[1], b"{}", failure[2])
                return
        self._route(urlsplit(path).path, parse_qs(urlsplit(path).query), has_token=has_token)

    def _route(self, path: str, query: dict[str, list[str]], *, has_token: bool) -> None:  # noqa: C901
        if path.startswith("/cdn/"):
            self._bytes(self.hub.blobs[path[5:]], {"ETag": '"another"'})
        elif path.startswith("/store/"):
            self.close_connection = True
            if self.hub.on_blob(self.body):
                self.hub.blobs[path[7:]] = self.body
                self.answer(200)
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif path == "/api/whoami-v2":
            self._json({"name": "me", "type": "user", "orgs": []}) if has_token else self._refuse(401, "")
        elif path == "/api/repos/create":
            self._create(has_token=has_token)
        elif found := re.fullmatch(
            r"/(?:api/)?datasets/([^/]+/[^/.]+)(?:\.git)?(?:/([^/]+)(?:/([^/]+))?)?(?:/(.*))?", path
        ):
            name, what, revision, rest = (unquote(each or "") for each in found.groups())
            dataset = self.hub.datasets.get(name)
            if dataset is None or (dataset.is_private and not has_token):
                self._refuse(404 if has_token else 401, "RepoNotFound")
            elif dataset.is_gated and not has_token and what != "revision":
                self._refuse(401, "GatedRepo")
            elif what in ("preupload", "commit", "info"):
                self._write(dataset, name, what) if has_token else self._refuse(403, "")
            elif (files := dataset.at(revision or "main")) is None:
                self._refuse(404, "RevisionNotFound")
            else:
                self._read(dataset, name, files, what, rest, query)
        else:
            self._refuse(404, "")

    def _create(self, *, has_token: bool) -> None:
        asked = json.loads(self.body)
        name = f"{asked['organization'] or 'me'}/{asked['name']}"
        if not has_token or not name.startswith("me/"):
            self._refuse(403 if has_token else 401, "")
            return
        status = 409 if name in self.hub.datasets else 200
        self.hub.datasets.setdefault(name, Dataset(is_private=asked.get("visibility") == "private"))
        self.answer(status, json.dumps({"url": f"{self.hub.url}/datasets/{name}"}).encode())

    def _read(self, dataset: Dataset, name: str, files: dict[str, bytes], what: str, path: str, query: dict) -> None:
        sha = next(dataset.sha(number) for number, each in enumerate(dataset.commits) if each is files)
        if what in ("", "revision"):
            siblings = [{"rfilename": each, "size": len(data)} for each, data in files.items()]
            self._json({"id": name, "sha": sha, "siblings": siblings, "private": dataset.is_private, "tags": []})
        elif what == "tree":
            self._tree(files, path, query)
        elif what == "paths-info":
            asked = parse_qs(self.body.decode())["paths"]
            folders = {each.rpartition("/")[0] for each in files}
            found = [_entry(each, files[each]) if each in files else _folder(each) for each in asked]
            self._json([each for each in found if each["path"] in files or each["path"] in folders])
        elif path not in files:
            self._refuse(404, "EntryNotFound")
        elif path.endswith(LARGE):
            digest = _sha256(files[path])
            # Another host, as on the Hub: clients send it no token.
            place = self.hub.url.replace("127.0.0.1", "localhost")
            location = f"{place}/cdn/{digest}?X-Amz-Signature=secret"
            self.answer(302, b"", {"Location": location, "X-Linked-Etag": f'"{digest}"', "X-Repo-Commit": sha})
        else:
            self._bytes(files[path], {"ETag": f'"{_oid(files[path])}"', "X-Repo-Commit": sha})

    def _tree(self, files: dict[str, bytes], folder: str, query: dict[str, list[str]]) -> None:
        prefix = f"{folder}/" if folder else ""
        below = [path for path in files if path.startswith(prefix)]
        if folder and not below:
            self._refuse(404, "EntryNotFound")
            return
        if query.get("recursive", ["false"])[0].lower() == "true":
            entries = [_entry(path, files[path]) for path in below]
        else:
            names = dict.fromkeys(path[len(prefix) :].partition("/")[0] for path in below)
            paths = [prefix + name for name in names]
            entries = [_entry(path, files[path]) if path in files else _folder(path) for path in paths]
        first = int(query.get("cursor", ["0"])[0])
        if not self.hub.has_end:
            link = f"<{self.hub.url}{urlsplit(self.path).path}?cursor={first + 1}>"
            self.answer(200, b"[]", {"Link": f'{link}; rel="next"'})
            return
        query = {
            "recursive": "false",
            **{name: values[0] for name, values in query.items()},
            "cursor": str(first + _PAGE),
        }
        following = f"{self.hub.url}{urlsplit(self.path).path}?{urlencode(query)}"
        links = {"Link": f'<{following}>; rel="next"'} if len(entries) > first + _PAGE else {}
        self.answer(200, json.dumps(entries[first : first + _PAGE]).encode(), links)

    def _write(self, dataset: Dataset, name: str, what: str) -> None:
        if what == "preupload":
            files = dataset.commits[-1]
            asked = [each["path"] for each in json.loads(self.body)["files"]]
            modes = {path: "lfs" if path.endswith(self.hub.large) else "regular" for path in asked}
            oids = {
                path: (_sha256 if mode == "lfs" else _oid)(files[path]) for path, mode in modes.items() if path in files
            }
            found = [
                {"path": path, "uploadMode": modes[path], "shouldIgnore": False, "oid": oids.get(path)}
                for path in asked
            ]
            self._json({"files": found})
        elif what == "info":
            objects = json.loads(self.body)["objects"]
            upload = {"upload": {"href": f"{self.hub.url}/store/"}}
            for each in objects:
                if each["oid"] not in self.hub.blobs:
                    each["actions"] = {"upload": {"href": upload["upload"]["href"] + each["oid"]}}
            self._json({"transfer": "basic", "objects": objects})
        else:
            self._commit(dataset, name)

    def _commit(self, dataset: Dataset, name: str) -> None:
        files = dict(dataset.commits[-1])
        for line in self.body.splitlines():
            each = json.loads(line)
            if each["key"] == "file":
                files[each["value"]["path"]] = base64.b64decode(each["value"]["content"])
            elif each["key"] == "lfsFile":
                files[each["value"]["path"]] = self.hub.blobs[each["value"]["oid"]]
        files = {path: data for path, data in files.items() if path not in self.hub.loses}
        dataset.commits.append(files)
        self._json({"commitUrl": f"{self.hub.url}/datasets/{name}/commit/{dataset.sha()}", "commitOid": dataset.sha()})

    def _bytes(self, content: bytes, headers: dict[str, str]) -> None:
        first, last = 0, len(content)
        if asked := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
            first = int(asked[1]) if asked[1] else max(0, last - int(asked[2]))
            last = min(int(asked[2]) + 1, last) if asked[1] and asked[2] else last
            if first >= len(content):
                self.answer(416)
                return
            headers = {**headers, "Content-Range": f"bytes {first}-{last - 1}/{len(content)}"}
        content = content[first:last]
        harm = self.hub.harms.pop(0) if self.hub.harms else bytes
        if harm is None:
            self.answer(206 if asked else 200, content, {**headers, "Content-Length": str(10**13)})
            with suppress(OSError):
                while True:
                    self.wfile.write(bytes(2**20))
        else:
            self.answer(206 if asked else 200, harm(content), headers)

    def _json(self, tree: object) -> None:
        self.answer(200, json.dumps(tree).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str) -> None:
        self.answer(status, b"{}", {"X-Error-Code": code, "X-Error-Message": "refused"})


def _entry(path: str, data: bytes) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "path": path, "size": len(data), "oid": _oid(data)}
    if path.endswith(LARGE):
        entry["oid"] = _oid(b"pointer of " + data)
        entry["lfs"] = {"oid": _sha256(data), "size": len(data), "pointerSize": 134}
    return entry


def _folder(path: str) -> dict[str, object]:
    return {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0}


@contextmanager
def serving_hub() -> Iterator[Hub]:
    handler = type("Handler", (_Handler,), {})
    with serving(handler) as url:
        handler.hub = Hub(url)
        yield handler.hub


def use_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch, token: str | None = None) -> None:
    """Make it the Hub of this process, as HF_ENDPOINT and HF_TOKEN do for a new one; xet's own server is not there."""
    use_as_hub(hub.url, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/no/token")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
