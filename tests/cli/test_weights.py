"""`pseudoris weights`: the facts of each file, getting them from a server that fails, and checking them."""

from __future__ import annotations

import hashlib
import os
import shlex
import socket
import subprocess
import sys
import time
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
from huggingface_hub import constants

from pseudoris.cli import options
from pseudoris.files.location import RunLocation
from pseudoris.schemas.config import WeightsConfig
from pseudoris.schemas.config_layers import load_config, preset_names
from pseudoris.workers.checkpoints import download, weight_cache
from pseudoris.workers.checkpoints.model_folder import ModelFolder
from tests.builders.command import pseudoris, pseudoris_here
from tests.builders.images import png
from tests.builders.runs import STUBS
from tests.builders.vlms import save_vlm
from tests.builders.weight_server import COMMIT, serving_weights, use_as_hub
from tests.interchange.exports.builders import build_run, jpeg

SAM, COCA, CLIP = b"sam" * 1_000, b"coca" * 1_000, b"clip" * 1_000
SAM_NAME = "sam_vit_b_01ec64.pth"
COCA_NAME = "laion/CoCa-ViT-B-32-laion2B-s13B-b90k/open_clip_model.safetensors"
CLIP_NAME = "timm/resnet50_clip.openai/open_clip_pytorch_model.bin"
FILES = {SAM_NAME: SAM, COCA_NAME: COCA, CLIP_NAME: CLIP}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PSEUDORIS_WEIGHTS", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    download._unreachable.cache_clear()
    # Other tests may have left this process a Ray, whose nodes would then have the weights.
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"")
    return tmp_path / "cache"


@pytest.fixture
def server(cache, monkeypatch):
    """The files of `base` in miniature: SAM's site and the hub."""
    with serving_weights() as server:
        use_as_hub(server.url, monkeypatch)
        published = weight_cache.published_file(WeightsConfig(uri=f"checkpoints/{SAM_NAME}"))
        files = {SAM_NAME: f"{server.url}/{SAM_NAME}"}
        sam = replace(published, files=files, size_bytes=len(SAM), sha256=hashlib.sha256(SAM).hexdigest())
        monkeypatch.setattr(weight_cache, "CHECKPOINTS", {SAM_NAME: sam})
        server.files = {f"/{name}": content for name, content in FILES.items()}
        yield server


@pytest.fixture
def offline(cache, monkeypatch):
    """A network in which nothing ever answers, and nothing is refused."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{silent.getsockname()[1]}")
        yield


def test_list_tells_name_licence_size_digest_and_source_of_all_presets(cache):
    shown = pseudoris_here("weights", "list", code=0)
    for words in (
        "base, propose: sam_vit_b_01ec64.pth",
        "licence  Apache-2.0",
        "size     375,042,383 bytes",
        "sha256   a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        "https://huggingface.co/timm/resnet50_clip.openai/resolve/main/open_clip_model.safetensors",
        "licence  see the source",
        "tiny, filter: builtin:tiny/clip.safetensors",
        "tiny/MODEL_CARD.md",
    ):
        assert words in shown.stdout


def test_get_to_a_folder_fills_a_cache_for_another_machine(server, cache, tmp_path, monkeypatch):
    pseudoris_here("weights", "get", "base")
    asked = len(server.requests)
    shown = pseudoris_here("weights", "get", "base", "--to", str(tmp_path / "stick"))
    assert f"export PSEUDORIS_WEIGHTS={shlex.quote(f'{tmp_path}/stick')}" in shown.stdout
    assert len(server.requests) == asked
    monkeypatch.setenv("PSEUDORIS_WEIGHTS", str(tmp_path / "stick"))
    checked = pseudoris_here("weights", "check", "base", code=0)
    assert checked.stdout.count("as it must be") == 3


def test_get_refuses_other_bytes_and_still_gets_the_rest(server, cache):
    server.files[f"/{SAM_NAME}"] = b"x" * len(SAM)
    shown = pseudoris_here("weights", "get", "base", code=2)
    assert "it was not kept" in shown.stderr
    assert not (cache / SAM_NAME).exists()
    assert (cache / CLIP_NAME).exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", [["doctor"], ["annotate", "images", "out"]], ids=["doctor", "annotate"])
def test_without_a_network_a_run_is_told_all_files_within_ten_seconds(offline, monkeypatch, command):
    # As wide as a terminal: what is to be copied must not be broken.
    monkeypatch.setattr("tests.builders.command.WIDTH", "80")
    words = ("--set", "compute.device=cpu", "--set", "placement.address=local")
    begun = time.monotonic()
    shown = pseudoris_here(*command, "--preset", "base", *words)
    assert time.monotonic() - begun < 10
    told = shown.stdout + shown.stderr
    assert "downloading" not in told
    # One command, although another preset has one of the files too.
    assert told.count("To get them: pseudoris weights get ") == told.count("pseudoris weights get base") == 3
    for url in (
        f"https://dl.fbaipublicfiles.com/segment_anything/{SAM_NAME}",
        f"https://huggingface.co/{COCA_NAME.replace('/open', '/resolve/main/open')}",
        "https://huggingface.co/timm/resnet50_clip.openai/resolve/main/open_clip_model.safetensors",
    ):
        assert f"By hand: download {url} and put it at " in told


# An engine whose own weights are missing, and are not read.
READY = ["masks.engine=ready", "masks.options.folder=/", "masks.weights.uri=gone.pth"]


def test_a_url_is_not_fetched_while_another_file_is_missing(server, cache):
    words = ("--set", "masks.weights.uri=gone.pth", "--set", f"filtering.weights.uri={server.url}/{SAM_NAME}")
    refused = pseudoris_here("annotate", "--preset=tiny", "images", "out", *words, "--address", "local", code=2)
    assert "weights 'gone.pth' are not available: there is no such file" in refused.stderr
    assert f"{SAM_NAME}' are not downloaded, because another part cannot be used\n" in refused.stderr
    assert not list(cache.rglob("*"))


@pytest.mark.parametrize("engine", [[], READY], ids=["sam", "ready"])
def test_a_dry_run_asks_the_hub_for_the_weights_of_a_tag_and_fetches_nothing(server, cache, engine):
    tag = "open_clip:coca_ViT-B-32/laion2b_s13b_b90k"
    words = [f"captions.weights.uri={tag}", "captions.architecture=coca_ViT-B-32", "placement.address=local", *engine]
    command = ("annotate", "--preset=tiny", "images", "out", "--dry-run", *(f"--set={word}" for word in words))
    planned = pseudoris_here(*command, code=0)
    assert "not fetched" in planned.stdout
    # The hub's client asks for a list of its own, once a day.
    assert not [path for path, *_ in server.requests if path != "/api/agent-harnesses"]
    assert not cache.exists()
    del server.files[f"/{COCA_NAME}"]
    refused = pseudoris_here(*command, code=2)
    assert "laion/CoCa-ViT-B-32-laion2B-s13B-b90k has none of the files" in refused.stderr


@pytest.mark.parametrize(
    "words", [["--preset=base"], ["--preset=open", "--dry-run"], ["--set", "masks.weights.uri=gone.pth"]]
)
def test_other_settings_than_those_of_a_run_are_refused_without_their_weights(server, cache, tmp_path, words):
    run = RunLocation.open(str(tmp_path / "run"))
    build_run(run, (("a.jpg", jpeg(), (("a circle",),)),), embed=False, source=tmp_path / "photos")
    words = [*words, "--set", "compute.device=cpu", "--address", "local", "--set", "masks.prior.kind=none"]
    refused = pseudoris_here("annotate", str(tmp_path / "photos"), run.root, *words, code=2)
    assert "this output holds a run with another identity" in refused.stderr
    if words[0] != "--set":
        name = words[0].partition("=")[2]
        assert f"preset: 'tiny' in the run, '{name}' now, and with it " in refused.stderr
    assert "not available" not in refused.stderr
    assert not [path for path, _ in server.requests if path.endswith((".pth", ".safetensors", ".bin"))]


def test_check_tells_what_is_missing_and_what_is_wrong(server, cache):
    pseudoris_here("weights", "get", "base")
    (cache / SAM_NAME).unlink()
    (cache / COCA_NAME).write_bytes(b"damaged")
    shown = pseudoris_here("weights", "check", "base", code=1)
    propose, caption, scored = shown.stdout.splitlines()
    assert propose.startswith("off  propose   weights 'checkpoints/sam_vit_b_01ec64.pth' are not available")
    assert f"expected {hashlib.sha256(COCA).hexdigest()}: it is not the published file; get it again" in caption
    assert scored.startswith("ok ")


MODEL = f"owner/model@{COMMIT}"


def test_a_model_folder_is_got_checked_and_listed_by_its_commit(server, cache, tmp_path):
    saved = save_vlm(tmp_path / "saved", shard="100KB")
    server.files |= {f"/owner/model/{path.name}": path.read_bytes() for path in saved.iterdir()}
    missing = pseudoris_here("weights", "check", MODEL, code=1)
    assert f"is not on this machine. To get it: pseudoris weights get {MODEL}" in missing.stdout
    assert str(cache / MODEL) in pseudoris_here("weights", "get", MODEL, code=0).stdout
    checked, own = pseudoris_here("weights", "check", MODEL), pseudoris_here("weights", "check", str(saved))
    digest = ModelFolder.open(str(saved)).sha256
    assert f"{cache / MODEL}  sha256 {digest}, as it must be" in checked.stdout
    assert f"{saved}  sha256 {digest}, no digest to compare it with" in own.stdout
    shown = pseudoris_here("weights", "list", MODEL).stdout
    assert f"https://huggingface.co/owner/model/tree/{COMMIT}" in shown
    assert "bytes in 10 files" in shown
    (cache / MODEL / "tokenizer.json").write_text("{}")
    assert "but" in pseudoris_here("weights", "check", MODEL).stdout


@pytest.mark.parametrize("command", ["get", "check", "list"])
def test_a_branch_of_a_model_is_refused_with_the_remedy(server, command):
    shown = pseudoris_here("weights", command, "owner/model@main", code=1 if command == "check" else 2)
    assert "'main' is not a commit" in shown.stdout + shown.stderr
    assert not [path for path, _ in server.requests if path.endswith((".pth", ".safetensors", ".bin"))]


def test_a_gated_model_tells_what_the_gate_says(server):
    server.refusals["owner/model"] = (403, "GatedRepo", "Access to model owner/model is restricted.")
    shown = pseudoris_here("weights", "get", MODEL, code=2)
    assert (
        "Access to model owner/model is restricted. Ask for access on https://huggingface.co/owner/model"
        in shown.stderr
    )


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_workers_of_a_local_run_find_checkpoints_in_the_cache_from_another_folder(stub_engines, cache, tmp_path):
    cache.mkdir()
    shipped = files("pseudoris.workers.checkpoints").joinpath("tiny/sam.safetensors")
    (cache / "mine.safetensors").write_bytes(shipped.read_bytes())
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "elsewhere").mkdir()
    weights = ("masks.weights.uri=checkpoints/mine.safetensors", "masks.points_per_side=4", *STUBS[1:3])
    pseudoris(
        *("annotate", "--preset=tiny", str(tmp_path / "a.png"), str(tmp_path / "out"), "--address", "local"),
        *(f"--set={each}" for each in weights),
        cwd=tmp_path / "elsewhere",
        code=0,
    )
    assert "checkpoints/mine.safetensors" in (tmp_path / "out" / "_run.json").read_text()


@pytest.mark.slow
@pytest.mark.skipif(any(map(os.path.exists, ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd"))), reason="it has a GPU")
def test_a_missing_gpu_is_told_with_the_missing_weights_before_anything_is_downloaded(server, cache, tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    words = ("annotate", str(tmp_path / "a.png"), str(tmp_path / "out"), "--preset", "base", "--address", "local")
    told = pseudoris_here(*words, code=2).stderr
    assert "compute.device=cuda, but this machine has no GPU" in told
    assert "or compute on CPUs, slowly: --on-cpus" in told
    assert "To get them: pseudoris weights get base" in told
    assert not [path for path, _ in server.requests if path.endswith((".pth", ".safetensors", ".bin"))]
    told = pseudoris_here(*words, "--on-cpus").stderr
    assert "no GPU" not in told
    assert "To get them: pseudoris weights get base" in told


@pytest.mark.parametrize("preset", preset_names())
def test_one_option_computes_any_preset_on_cpus(preset):
    for mode in ("fused", "staged"):
        given = options.words([f"placement.mode={mode}", "compute.precision=float32"], {}, on_cpus=True)
        config = load_config(preset, None, given)
        assert config.compute.device == "cpu"
        assert {(pool.num_gpus, pool.num_cpus) for pool in config.model_pools().values()} == {(0, 1)}
    # What is set by name wins.
    given = options.words(["placement.fused.num_cpus=4"], {}, on_cpus=True)
    assert load_config(preset, None, given).placement.fused.num_cpus == 4


WITHOUT = """
import sys
from importlib import util
from pseudoris.primitives.extras import MODULES
extras, *words = sys.argv[1:]
lacking = {module for extra in extras.split(",") for module in MODULES[extra]}
found = util.find_spec
util.find_spec = lambda name, package=None: None if name in lacking else found(name, package)
sys.modules.update(dict.fromkeys(lacking))
from pseudoris.cli.main import main
sys.argv = ["pseudoris", *words]
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lacking", "words", "code", "said"),
    [
        ("run", "weights get tiny", 0, "builtin:tiny/sam.safetensors (nothing to download)"),
        ("run", "weights check open_clip:RN50/cc12m", 1, "'open_clip:RN50/cc12m' needs 'ray', which is not installed"),
        ("run,remote", "weights list", 0, "open, filter: "),
        ("run,remote", "weights check tiny-composed", 0, "as it must be"),
        ("run,remote", "weights check base", 1, "To get them: pseudoris weights get base"),
        ("run,remote", "weights get base", 2, "`pseudoris weights get` needs 'aiohttp', which is not installed"),
        ("run,remote", "doctor --preset tiny", 0, "Not checked here: device, memory, limits, versions of packages"),
        ("run,remote", "doctor --preset tiny a.png", 0, "tiny/sam.safetensors sha256 "),
        ("run", "doctor --preset base a.png", 1, "To get them: pseudoris weights get base"),
    ],
)
def test_a_login_node_needs_neither_torch_nor_ray_and_to_look_at_weights_only_the_core(
    lacking, words, code, said, tmp_path
):
    command = [sys.executable, "-c", WITHOUT, lacking, *words.split()]
    (tmp_path / "a.png").write_bytes(png())
    search_path = os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PSEUDORIS_WEIGHTS": str(tmp_path), "PYTHONPATH": search_path, "COLUMNS": "1000"}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert ended.returncode == code, ended.stdout + ended.stderr
    assert said in " ".join((ended.stdout + ended.stderr).split())
