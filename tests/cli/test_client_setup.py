"""What the client of a storage gets wrong before it sends a request: for every command one message, exit code 2."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from http.server import ThreadingHTTPServer

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image
from s3fs import S3FileSystem

from tests.builders.command import pseudoris_here
from tests.builders.s3 import FORBIDDEN
from tests.builders.web import Answering, serving

KEYS = {"AWS_ACCESS_KEY_ID": "testing-key", "AWS_SECRET_ACCESS_KEY": "hunter2hunter2"}
PROFILE = {"AWS_PROFILE": "lab"}
# Of a set-up: what the environment says, the profile's text, and what the message must name.
SETUPS = {
    "endpoint without http": ({**KEYS, "AWS_ENDPOINT_URL": "127.0.0.1:9000"}, "", "AWS_ENDPOINT_URL='127.0.0.1:9000'"),
    "host without an address": ({**KEYS, "AWS_ENDPOINT_URL": "http://no.such.invalid:9"}, "", "//no.such.invalid:9'"),
    "port too large": ({**KEYS, "AWS_ENDPOINT_URL": "http://h:99999999"}, "", "AWS_ENDPOINT_URL='http://h:99999999'"),
    "profile that is missing": ({"AWS_PROFILE": "nope"}, "", "AWS_PROFILE='nope'"),
    "role without its source": (PROFILE, "role_arn=arn:aws:iam::1:role/r", "source_profile"),
    "source profile missing": (PROFILE, "role_arn=arn:aws:iam::1:role/r\nsource_profile=other", "other"),
    "sso not logged in": (
        PROFILE,
        "sso_start_url=https://x.awsapps.com/start\nsso_region=eu-west-1\nsso_account_id=1\nsso_role_name=r",
        "`aws sso login --profile lab`",
    ),
    "process that fails": (PROFILE, "credential_process=/bin/false", "CredentialRetrievalError"),
    "process without a program": (PROFILE, "credential_process=/no/such/program", "/no/such/program"),
    "process without json": (PROFILE, "credential_process=/bin/echo hunter2hunter2", "JSONDecodeError"),
    "token file missing": (
        PROFILE,
        "role_arn=arn:aws:iam::1:role/r\nweb_identity_token_file=/no/such/token",
        "/no/such",
    ),
    "half a key": (PROFILE, "aws_access_key_id=AKIA", "aws_secret_access_key"),
    "no config file": (PROFILE, "[[[", "AWS_CONFIG_FILE="),
    "region that is none": ({**KEYS, "AWS_DEFAULT_REGION": "us east 1"}, "", "AWS_DEFAULT_REGION='us east 1'"),
    "certificates missing": (
        {**KEYS, "AWS_CA_BUNDLE": "/no/such.pem", "AWS_ENDPOINT_URL": "https://127.0.0.1:9"},
        "",
        "AWS_CA_BUNDLE='/no/such.pem'",
    ),
}
DRY = "annotate --preset=tiny photos out --dry-run"
COMMANDS = (
    *(f"annotate --preset=tiny s3://bucket/in{each} out --dry-run" for each in ("", "/*.png")),
    *("annotate --preset=tiny photos s3://bucket/out", f"{DRY} --set masks.weights.uri=s3://bucket/w.pt"),
    f"{DRY} --set masks.prior.kind=table --set masks.prior.path=s3://bucket/t.parquet",
    *(f"{each} s3://bucket/run" for each in ("status", "verify", "gc", "gallery", "stats", "sample", "parts")),
    *(f"{each} s3://bucket/run --truth synthworld" for each in ("evaluate", "calibrate")),
    *("export s3://bucket/run there", "refilter s3://bucket/run new", "audit draw s3://bucket/run audit"),
    *("import coco.json photos s3://bucket/run", "ppt pairs s3://bucket/run out"),
    *("ppt objects s3://bucket/classes out", "ppt compose s3://bucket/run out", "weights get s3://bucket/w.pt"),
    *("estimate --preset=tiny s3://bucket/in", "train student s3://bucket/run --out trained"),
)


@pytest.fixture
def told(tmp_path, monkeypatch):
    """Return a function that runs a command under a set-up, and returns its message; it ends with 2."""
    for name in (*FORBIDDEN, *KEYS, "AWS_DEFAULT_REGION", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "a.png")
    (tmp_path / "coco.json").write_text('{"images": [], "annotations": []}')

    def run(command: str, variables: dict[str, str], profile: str = "") -> str:
        config = tmp_path / "aws"
        config.write_text(f"[profile lab]\n{profile}\n")
        with monkeypatch.context() as patch:
            for name, value in {**variables, "AWS_CONFIG_FILE": str(config)}.items():
                patch.setenv(name, value)
            # The workers of a Ray of earlier tests have another set-up, and would measure the weights.
            patch.setattr("ray.is_initialized", lambda: False)
            # One of an earlier set-up would be found again.
            S3FileSystem.clear_instance_cache()
            ended = pseudoris_here(*command.split(), cwd=tmp_path, code=2)
        assert "hunter2" not in ended.stdout + ended.stderr
        return ended.stderr

    yield run
    S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("setup", SETUPS)
def test_what_a_client_cannot_be_set_up_with_is_named(told, setup):
    variables, profile, named = SETUPS[setup]
    message = told("status s3://bucket/run", variables, profile)
    assert named in message
    assert "cannot be set up" in message


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_it(told, command):
    # Credentials are looked for last: another mistake is found no later.
    variables, profile, named = SETUPS["sso not logged in"]
    assert named in told(command, variables, profile)


class Silent(Answering):
    """Answers 404."""

    def do_GET(self) -> None:  # noqa: N802  # as http.server calls it
        self.send_error(404)

    do_HEAD = do_GET  # noqa: N815 - the name that the server asks for


@pytest.fixture(scope="module")
def server():
    """Return the url of an http server of this machine."""
    with serving(Silent) as url:
        yield url


def test_https_asked_of_an_http_port_and_a_host_without_an_address_are_told_at_once(told, server):
    endpoint = server.replace("http:", "https:")
    assert "SSLError" in told("status s3://bucket/run", {**KEYS, "AWS_ENDPOINT_URL": endpoint})
    hosts = {endpoint: "not served as https", "http://no.such.invalid": "there is no host of this name"}
    for host, message in hosts.items():
        assert message in told(f"annotate --preset=tiny {host}/x.tar out --dry-run", {})


def test_http_asked_of_an_https_port_is_told_at_once(told):
    # Without a certificate it refuses each client, in TLS.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        for command in ("status s3://bucket/run", "annotate --preset=tiny s3://bucket/in out --dry-run"):
            message = told(command, {**KEYS, "AWS_ENDPOINT_URL": endpoint})
            assert f"AWS_ENDPOINT_URL='{endpoint}'. Correct it" in message
            assert "https://HOST" in message
        server.shutdown()


@pytest.mark.slow
@pytest.mark.long
def test_a_hub_that_is_no_address_is_told_at_once(server):
    # The Hub's client reads its address when it is imported.
    for endpoint, named in (
        ("127.0.0.1:9", "UnsupportedProtocol"),
        (server.replace("http:", "https:"), "SSLError"),
        ("https://no.such.invalid", "gaierror"),
    ):
        words = ["-m", "pseudoris", "annotate", "--preset=tiny", "hf://datasets/a/b", "out", "--dry-run"]
        environment = {**os.environ, "HF_ENDPOINT": endpoint, "COLUMNS": "400"}
        ended = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, env=environment)
        assert (ended.returncode, named in ended.stderr, endpoint in ended.stderr) == (2, True, True), ended.stderr


WITHOUT_NAMES = """
import runpy, socket, sys

def refuse(*_, **__):
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

socket.getaddrinfo = refuse
sys.argv = sys.argv[:1] + "annotate --preset=tiny hf://datasets/a/b out --dry-run".split()
runpy.run_module("pseudoris", run_name="__main__")
"""


@pytest.mark.slow
def test_without_a_network_the_hub_itself_is_no_mistake_of_the_set_up():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    script = [sys.executable, "-c", WITHOUT_NAMES]
    ended = subprocess.run(script, capture_output=True, text=True, check=False, env=environment)
    assert ended.returncode == 3, ended.stderr
    assert "the Hub cannot be reached (ConnectError)" in ended.stderr


def test_a_mistyped_setting_is_told_before_out_is_asked_for_its_preset(told, server):
    words = f"--set source.endpoint_url={server} --set masks.point_per_side=4"
    assert "did you mean masks.points_per_side?" in told(f"annotate photos s3://bucket/out {words}", KEYS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "code"), [(["annotate", "--set", "placement.storage.patience_s=1"], 3), (["doctor"], 1)]
)
@pytest.mark.long
def test_a_store_of_out_that_is_down_is_asked_for_the_preset_as_long_as_is_set(command, code, tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}.items():
        monkeypatch.setenv(name, value)
    began = time.monotonic()
    pseudoris_here(*command, "photos", "s3://bucket/out", cwd=tmp_path, code=code)
    assert time.monotonic() - began < 100


class Unready(MemoryFileSystem):
    """The client of a store that finds no credentials."""

    protocol = "unready"

    def __init__(self, *_: object, **__: object) -> None:
        raise RuntimeError("no project is set")


def test_a_client_of_any_other_store_that_cannot_be_made_is_told(told):
    fsspec.register_implementation("unready", Unready, clobber=True)
    for command in ("status unready://bucket/run", "annotate --preset=tiny unready://bucket/in out --dry-run"):
        assert "RuntimeError: no project is set" in told(command, {})
