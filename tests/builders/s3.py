"""An S3 server for tests: moto's, as a process of its own, on a free port of this machine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.request import Request, urlopen

import botocore.session

# The server believes anyone; a client still refuses to send what it cannot sign.
ENVIRONMENT: Final[Mapping[str, str]] = {
    "AWS_ACCESS_KEY_ID": "testing-key",
    "AWS_SECRET_ACCESS_KEY": "testing-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    # No test may find the credentials, or the settings, of whoever runs it.
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
FORBIDDEN: Final = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")

# It ends with its parent, however that one ends: a killed test leaves no server behind. Moto looks for an object and
# then writes it, without a lock: on a busy machine two conditional writes of one key succeeded. No store does that.
_SERVER: Final = """
import os, sys, threading
from moto.s3.responses import S3Response
from moto.server import main
lock, put_object = threading.Lock(), S3Response.put_object
def decide_one_by_one(self):
    with lock:
        return put_object(self)
S3Response.put_object = decide_one_by_one
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
main(["-H", "127.0.0.1", "-p", "0"])
"""
_START_TIMEOUT_S: Final = 60.0
_ADDRESS: Final = re.compile(r"Running on (http://127\.0\.0\.1:\d+)")


@dataclass(frozen=True, slots=True)
class S3Server:
    """A server that runs."""

    endpoint_url: str

    def client(self) -> Any:
        return botocore.session.get_session().create_client("s3", endpoint_url=self.endpoint_url)

    def put_folder(self, folder: Path, bucket: str, prefix: str) -> str:
        """Put the files of a folder into a bucket, and return their uri."""
        client = self.client()
        for path in filter(Path.is_file, folder.rglob("*")):
            key = f"{prefix}/{path.relative_to(folder).as_posix()}"
            client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())
        return f"s3://{bucket}/{prefix}"

    def objects(self, bucket: str, prefix: str = "") -> dict[str, bytes]:
        """Return the objects of a bucket below a prefix, by what follows it in their keys."""
        client = self.client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
        return {key.removeprefix(prefix): client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}

    def new_bucket(self, prefix: str = "test") -> str:
        """Create a bucket of a name never used before, and return its name."""
        name = f"{prefix}-{uuid.uuid4().hex}"
        # A client reads its service's whole model first, for half a second. The server asks for no signature.
        with urlopen(Request(f"{self.endpoint_url}/{name}", method="PUT")):
            return name


@contextmanager
def serving_s3() -> Iterator[S3Server]:
    """Serve for the block; the process is ended by its id."""
    with tempfile.NamedTemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            yield S3Server(_address(process, Path(log.name)))
        finally:
            process.terminate()
            process.wait(timeout=10)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    started = time.monotonic()
    while process.poll() is None and time.monotonic() - started < _START_TIMEOUT_S:
        match = _ADDRESS.search(log.read_text())
        if match:
            return match[1]
        time.sleep(0.05)
    raise RuntimeError(f"moto's server did not start within {_START_TIMEOUT_S:.0f} s: {log.read_text()[-2000:]}")
