"""An S3 store that misbehaves: a proxy that answers 503, resets, hangs, dawdles and doubles by rules, and counts.

    with injecting(server.endpoint_url, [Fault("slow_down", rate=0.1)], seed=7) as proxy:
        RunLocation.open(out, proxy.endpoint_url)
        ...
        proxy.counts["ListObjectsV2"]

Whether a request is hit depends on the seed, the rule, the operation, the key and how often that request came
before, never on how threads interleave: the same requests meet the same faults.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

# Not done, and answered with an error, but for `conflict_done`. What else a fault may be:
# `reset`: the connection is reset, not done. `reset_done`: done, and reset instead of an answer.
# `hang`: not done, no answer until the client leaves. `hang_done`: done, no answer.
# `slow_body`, `cut_body`, `stalled_body`: done; the answer's body trickles, is reset in the middle, or stops there.
# `doubled`: done twice, answered as the second time.
# `edited`: done, and the answer has `new` where `old` fits; `{n}` in it counts the answers.
_ERRORS: Final[dict[str, tuple[int, str, str]]] = {
    "slow_down": (503, "Slow Down", "SlowDown"),
    "internal_error": (500, "Internal Server Error", "InternalError"),
    "not_implemented": (501, "Not Implemented", "NotImplemented"),
    "denied": (403, "Forbidden", "AccessDenied"),
    "expired": (400, "Bad Request", "ExpiredToken"),
    "no_such_upload": (404, "Not Found", "NoSuchUpload"),
    "redirected": (301, "Moved Permanently", "PermanentRedirect"),
    "elsewhere": (400, "Bad Request", "IllegalLocationConstraintException"),
    "conflict": (409, "Conflict", "ConditionalRequestConflict"),
    "ceph_quota": (403, "Forbidden", "QuotaExceeded"),
    "minio_quota": (400, "Bad Request", "XMinioAdminBucketQuotaExceeded"),
    "minio_full": (507, "Insufficient Storage", "XMinioStorageFull"),
    "conflict_done": (409, "Conflict", "ConditionalRequestConflict"),
}
_IS_DONE: Final = frozenset({"conflict_done", "reset_done", "hang_done", "doubled", "edited"})
_BODIES: Final = frozenset({"slow_body", "cut_body", "stalled_body"})
_PIECES: Final = 8


@dataclass(frozen=True, slots=True)
class Fault:
    """A rule: which requests meet which fault.

    Attributes:
        rate: Share of the requests it fits that are hit.
        times: Hit at most so many; None for no limit.
        operation: Regular expression over the operation's name (`PutObject`); all by default.
        key: Regular expression searched in `bucket/key`; all by default.
        is_conditional: Only requests with (or without) `If-None-Match` or `If-Match`; None for both.
        header: Only requests with a header whose name fits this regular expression.
        lacks_header: Only requests without such a header.
        seconds: How long a hang lasts at most, and a trickling body takes.
        after: How many requests pass before the first is hit.
        old: Regular expression over head and body of an answer, for `edited`.
        new: What stands there instead.
    """

    kind: str
    rate: float = 1.0
    times: int | None = None
    operation: str = ""
    key: str = ""
    is_conditional: bool | None = None
    header: str = ""
    lacks_header: str = ""
    seconds: float = 60.0
    after: int = 0
    old: str = ""
    new: str = ""

    def fits(self, request: Request) -> bool:
        return (
            (not self.operation or re.fullmatch(self.operation, request.operation) is not None)
            and re.search(self.key, request.key) is not None
            and self.is_conditional in (None, request.is_conditional)
            and (not self.header or request.has_header(self.header))
            and not (self.lacks_header and request.has_header(self.lacks_header))
        )


@dataclass(frozen=True, slots=True)
class Request:
    """A request as the client sent it: `operation` as S3 calls it, `key` with its bucket, of a listing the prefix."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    operation: str
    key: str
    is_conditional: bool

    def has_header(self, pattern: str) -> bool:
        return any(re.fullmatch(pattern, name, re.IGNORECASE) for name, _ in self.headers)


class FaultProxy:
    """A proxy that runs in a thread of this process.

    `counts` are all requests and `bytes_out` the bytes of answers' bodies, by operation; `hits` go by kind of fault.
    """

    def __init__(self, upstream: str, faults: Sequence[Fault] = (), seed: int = 0) -> None:
        address = urlsplit(upstream)
        self._upstream = (address.hostname or "127.0.0.1", address.port or 80)
        self._seed = seed
        self._lock = threading.Lock()
        self.endpoint_url = ""
        self.counts: Counter[str] = Counter()
        self.hits: Counter[str] = Counter()
        self.bytes_out: Counter[str] = Counter()
        self.requests: list[tuple[str, str]] = []
        self.set_faults(faults)

    def set_faults(self, faults: Sequence[Fault]) -> None:
        with self._lock:
            self._faults = tuple(faults)
            self._left = [fault.times for fault in faults]
            self._passed = [0] * len(faults)
            self._seen: Counter[tuple[str, str]] = Counter()

    def reset_counts(self) -> None:
        with self._lock:
            for counter in (self.counts, self.hits, self.bytes_out):
                counter.clear()
            self.requests.clear()

    async def serve(self, started: Future[asyncio.Event]) -> None:
        """Serve on a free port until the event that `started` is given is set."""
        stop = asyncio.Event()
        server = await asyncio.start_server(self._serve_client, "127.0.0.1", 0)
        self.endpoint_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        started.set_result(stop)
        await stop.wait()
        server.close()
        clients = asyncio.all_tasks() - {asyncio.current_task()}
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)

    async def _serve_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while (request := await _read_request(reader, writer)) is not None:
                if not await self._serve_request(request, reader, writer):
                    break
        with suppress(ConnectionError):
            writer.close()
            await writer.wait_closed()

    async def _serve_request(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer the request; return whether the connection can be used again."""
        fault = self._choose(request)
        if fault is None or fault.kind in _IS_DONE | _BODIES:
            head, body = await self._forward(request)
        if fault is not None and fault.kind == "doubled":
            head, body = await self._forward(request)
        if fault is not None and fault.kind == "edited":
            head, body = _edited(head, body, fault.old, fault.new.replace("{n}", f"{sum(self.hits.values()):06d}"))
        if fault is None or fault.kind in ("doubled", "edited"):
            self._count_bytes(request, body)
            return await _write(writer, head, body)
        if fault.kind in _ERRORS:
            status, reason, code = _ERRORS[fault.kind]
            told = f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
            body = told if request.method != "HEAD" else b""
            fields = f"Content-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
            return await _write(writer, f"HTTP/1.1 {status} {reason}\r\n{fields}".encode(), body)
        if fault.kind.startswith("hang"):
            with suppress(TimeoutError):
                await asyncio.wait_for(reader.read(1), fault.seconds)
        elif fault.kind in _BODIES:
            writer.write(head)
            await self._trickle(writer, body, fault)
            if fault.kind == "slow_body":
                self._count_bytes(request, body)
                return True
        _reset(writer)
        return False

    async def _trickle(self, writer: asyncio.StreamWriter, body: bytes, fault: Fault) -> None:
        if fault.kind != "slow_body":
            writer.write(body[: len(body) // 2])
            await writer.drain()
            # The half must have left before the reset, which would discard it.
            await asyncio.sleep(0.05 if fault.kind == "cut_body" else fault.seconds)
            return
        step = max(1, -(-len(body) // _PIECES))
        for start in range(0, len(body), step):
            await asyncio.sleep(fault.seconds / _PIECES)
            writer.write(body[start : start + step])
            await writer.drain()

    async def _forward(self, request: Request) -> tuple[bytes, bytes]:
        """Return the upstream's head and body."""
        reader, writer = await asyncio.open_connection(*self._upstream)
        # The store does not know a mark that a rule has invented.
        target = re.sub(
            r"[&?](continuation-token|key-marker|upload-id-marker)=(token|a|b)\d*(?=&|$)", "", request.target
        )
        lines = [f"{request.method} {target} HTTP/1.1"]
        dropped = ("connection", "expect", "transfer-encoding", "content-length")
        lines += [f"{name}: {value}" for name, value in request.headers if name.lower() not in dropped]
        lines += ["Connection: close", f"Content-Length: {len(request.body)}", "", ""]
        writer.write("\r\n".join(lines).encode("latin-1") + request.body)
        answer = await reader.read()
        writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        if re.search(rb"(?im)^transfer-encoding:\s*chunked", head):
            chunks = asyncio.StreamReader()
            chunks.feed_data(body)
            chunks.feed_eof()
            body = await _read_chunks(chunks) if body else b""
            head = re.sub(rb"(?im)^transfer-encoding:[^\r\n]*", b"Content-Length: %d" % len(body), head)
        head = re.sub(rb"(?im)\r\n(connection|keep-alive):[^\r\n]*", b"", head)
        head = re.sub(rb"^HTTP/1\.0", b"HTTP/1.1", head)
        return head + b"\r\n\r\n", body

    def _count_bytes(self, request: Request, body: bytes) -> None:
        with self._lock:
            self.bytes_out[request.operation] += len(body)

    def _choose(self, request: Request) -> Fault | None:
        """Count the request, and return the first rule that hits it."""
        with self._lock:
            self.counts[request.operation] += 1
            self.requests.append((request.operation, request.key))
            nth = self._seen[request.operation, request.key]
            self._seen[request.operation, request.key] += 1
            for number, fault in enumerate(self._faults):
                left = self._left[number]
                if left == 0 or not fault.fits(request):
                    continue
                self._passed[number] += 1
                if self._passed[number] <= fault.after:
                    continue
                drawn = f"{self._seed} {number} {request.operation} {request.key} {nth}"
                if int.from_bytes(hashlib.sha256(drawn.encode()).digest()[:8]) / 2**64 < fault.rate:
                    self._left[number] = None if left is None else left - 1
                    self.hits[fault.kind] += 1
                    return fault
        return None


@contextmanager
def injecting(upstream: str, faults: Sequence[Fault] = (), *, seed: int = 0) -> Iterator[FaultProxy]:
    """Run a proxy before the store at `upstream` for the block, in a thread of this process."""
    proxy = FaultProxy(upstream, faults, seed)
    started: Future[asyncio.Event] = Future()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_until_complete, args=(proxy.serve(started),), daemon=True)
    thread.start()
    stop = started.result(timeout=10)
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(timeout=10)


def _edited(head: bytes, body: bytes, old: str, new: str) -> tuple[bytes, bytes]:
    whole = re.sub(old.encode(), new.encode("latin-1"), head + body)
    head, separator, body = whole.partition(b"\r\n\r\n")
    if body:
        head = re.sub(rb"(?im)^content-length:[^\r\n]*", b"Content-Length: %d" % len(body), head)
    return head + separator, body


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
    """Return the next request of a connection, None at its end."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers = tuple((name, value.strip()) for name, _, value in (line.partition(":") for line in lines))
    named = {name.lower(): value for name, value in headers}
    if named.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await writer.drain()
    if named.get("transfer-encoding", "").lower() == "chunked":
        body = await _read_chunks(reader)
    else:
        body = await reader.readexactly(int(named.get("content-length", "0")))
    address = urlsplit(target)
    query = parse_qs(address.query, keep_blank_values=True)
    path = unquote(address.path).strip("/")
    return Request(
        method,
        target,
        headers,
        body,
        operation=_operation(method, has_key="/" in path, query=query, is_copy="x-amz-copy-source" in named),
        key="/".join([path, *query.get("prefix", [])]),
        is_conditional="if-none-match" in named or "if-match" in named,
    )


def _operation(method: str, *, has_key: bool, query: dict[str, list[str]], is_copy: bool) -> str:
    marks = {
        ("GET", "uploads"): "ListMultipartUploads",
        ("GET", "list-type"): "ListObjectsV2",
        ("POST", "uploads"): "CreateMultipartUpload",
        ("POST", "uploadId"): "CompleteMultipartUpload",
        ("POST", "delete"): "DeleteObjects",
        ("PUT", "partNumber"): "UploadPart",
        ("DELETE", "uploadId"): "AbortMultipartUpload",
    }
    for (of_method, mark), name in marks.items():
        if method == of_method and mark in query:
            return name
    if is_copy:
        return "CopyObject"
    what = "Object" if has_key else "Bucket"
    return {"GET": "Get", "HEAD": "Head", "PUT": "Put", "DELETE": "Delete", "POST": "Post"}.get(method, method) + what


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")
    return body


async def _write(writer: asyncio.StreamWriter, head: bytes, body: bytes) -> bool:
    writer.write(head + body)
    await writer.drain()
    return True


def _reset(writer: asyncio.StreamWriter) -> None:
    """End the connection with RST, as a machine that went away does; a plain close would be an empty answer."""
    with suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
