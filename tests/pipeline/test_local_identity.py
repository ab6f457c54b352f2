"""What is told before Ray starts: another identity or SOURCE, a missing package, missing weights."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import fsspec
import pytest

from pseudoris.cli.doctor import run_checks
from pseudoris.files.location import RunLocation
from pseudoris.pipeline import annotation, identity, run_plan, sample_estimate
from pseudoris.pipeline.identity import identity_before_ray, measure_identity
from pseudoris.pipeline.run_contract import RunOptions
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config_layers import load_config
from pseudoris.store.runs.lock import RunLock
from pseudoris.workers.cpu_bits import cpu_kind
from tests.builders.command import pseudoris
from tests.builders.images import png
from tests.builders.sources import parquet_bytes, tar_bytes, write_files
from tests.store.builders import commit, make_entries, make_identity, start_run

HERE = make_identity()


@pytest.fixture(autouse=True)
def without_ray(monkeypatch):
    """Make a start of Ray an error, and this process one that is not connected."""
    monkeypatch.setattr(run_plan, "connected", lambda *_: pytest.fail("Ray was started"))
    monkeypatch.setattr(identity, "joins_cluster", lambda address: False)


@pytest.fixture
def measured(monkeypatch):
    """Measure the identity of the run, with the method of the configuration."""
    answer = {}

    def measure(config, *, sees_device, stored, **_):
        return HERE.model_copy(update={"method": config.method(), "device_kind": "another", **answer})

    monkeypatch.setattr(identity, "measure_identity", measure)
    return answer


@pytest.fixture
def source(tmp_path):
    return str(write_files(tmp_path / "in", {"a.png": png()}))


@pytest.fixture
def out(tmp_path, source):
    location = RunLocation.open(str(tmp_path / "out"))
    commit(location, start_run(location, make_entries(1), source=source), 0)
    return str(tmp_path / "out")


COMMANDS = pytest.mark.parametrize("command", [annotation.annotate, annotation.dry_run], ids=["annotate", "dry run"])


@COMMANDS
def test_a_run_begun_with_another_shard_size_and_source_names_all_that_differs(command, measured, out, tmp_path):
    write_files(tmp_path / "other", {"b.png": png()})
    measured["weights"] = {"propose": "b" * 64}
    with pytest.raises(ConfigError, match=r"(?s)shards\.max_images: .*started with") as refused:
        command(str(tmp_path / "other"), out, load_config("tiny", None, ["shards.max_images=3", "compute.seed=9"]))
    text = str(refused.value)
    for words in ("shards.max_images: ", "compute.seed: ", "weights.propose: ", f"SOURCE: '{tmp_path}/in' in the run"):
        assert words in text
    remedy = (
        "started with: --set compute.seed=0 --set shards.max_images=16, and if its images have moved, add --moved-from"
    )
    assert remedy in text
    assert "device_kind" not in text


def test_a_run_without_results_is_planned_anew_for_another_identity(measured, source, tmp_path):
    location = RunLocation.open(str(tmp_path / "begun"))
    start_run(location, make_entries(1), source="/elsewhere")
    measured["weights"] = dict.fromkeys(("propose", "caption", "filter"), "b" * 64)
    words = ["shards.max_images=3", "compute.seed=9"]
    assert annotation.dry_run(source, location.root, load_config("tiny", None, words)).num_images == 1
    with RunLock.held(location), pytest.raises(ConfigError, match="holds a run with another identity"):
        annotation.dry_run(source, location.root, load_config("tiny", None, words))


@pytest.mark.slow
def test_a_dry_run_asks_only_whether_weights_behind_a_url_exist(source, tmp_path, monkeypatch):
    monkeypatch.setenv("PSEUDORIS_WEIGHTS", str(tmp_path / "cache"))
    memory = fsspec.filesystem("memory")
    memory.pipe("/far/sam.pth", b"never read")
    words = ["masks.weights.uri=memory://far/sam.pth"]
    plan = annotation.dry_run(source, str(tmp_path / "new"), load_config("tiny", None, words))
    assert plan.weights["propose"] == ("memory://far/sam.pth", "not fetched")
    (check,) = [
        each for each in run_checks(load_config("tiny", None, words), source=None, out=None) if "propose" in each.name
    ]
    assert (check.is_ok, check.detail) == (True, "memory://far/sam.pth exists: a run fetches it")
    assert not (tmp_path / "cache").exists()
    memory.rm("/far/sam.pth")
    with pytest.raises(ConfigError, match=r"weights 'memory://far/sam.pth' are not available"):
        annotation.dry_run(source, str(tmp_path / "new"), load_config("tiny", None, words))


@pytest.mark.parametrize("name", ["", "more.tar", "more.parquet"])
def test_a_dry_run_of_a_source_on_this_disk_starts_no_ray(measured, source, tmp_path, name):
    folder = Path(source)
    (folder / "more.tar").write_bytes(tar_bytes([(f"{n}.png", png(seed=n)) for n in range(5)]))
    (folder / "more.parquet").write_bytes(parquet_bytes({"bytes": [png(seed=n) for n in range(4)]}))
    measured["weights"] = dict.fromkeys(("propose", "caption", "filter"), "b" * 64)
    out, options = str(tmp_path / "out"), RunOptions()
    plan = annotation.dry_run(str(folder / name), out, load_config("tiny"), options=options)
    assert plan.num_images == {"": 10, "more.tar": 5, "more.parquet": 4}[name]
    assert plan.actors["fused"] >= 1
    with pytest.raises(pytest.fail.Exception, match="Ray was started"):
        annotation.dry_run(
            str(folder), out, load_config("tiny", None, ["compute.device=cuda", "placement.fused.num_gpus=1"])
        )


@pytest.mark.ray
@pytest.mark.slow
def test_a_home_folder_that_cannot_be_written_is_named_and_is_no_busy_machine(source, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/proc/nowhere")
    refused = pseudoris("annotate", "--preset=tiny", source, str(tmp_path / "out"), "--address", "local", code=2)
    assert "No such file or directory: '/proc/nowhere" in refused.stderr
    assert "Set HOME to a folder" in refused.stderr


@pytest.mark.slow
@pytest.mark.long
def test_a_dry_run_plans_where_ray_cannot_start(source, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", "/proc/nowhere")
    words = (source, str(tmp_path / "out"), "--address", "local")
    assert re.search(
        r"images +1 \(.*\n.*actors +\d", pseudoris("annotate", "--preset=tiny", *words, "--dry-run").stdout, re.DOTALL
    )
    assert not (tmp_path / "out").exists()
    refused = pseudoris("annotate", "--preset=tiny", *words, code=2)
    assert "Ray cannot use the temporary folder '/proc/nowhere'" in refused.stderr


@pytest.mark.slow
def test_a_cpu_that_rounds_otherwise_is_refused_by_a_dry_run_too(source, tmp_path):
    location, config = RunLocation.open(str(tmp_path / "out")), load_config("tiny")
    other = measure_identity(config).model_copy(update={"device_kind": f"{cpu_kind('float32')[:-1]}-"})
    commit(location, start_run(location, make_entries(2), source=source, identity=other), 0)
    with pytest.raises(ConfigError, match=r"device_kind: .* rounds otherwise, by its model .*\)\nContinue"):
        annotation.dry_run(source, location.root, config)
    mixed = load_config("tiny", None, ["placement.allow_mixed=true"])
    assert annotation.dry_run(source, location.root, mixed).device_kind == cpu_kind("float32")


@COMMANDS
def test_other_versions_are_refused_before_ray(command, measured, out, source):
    measured["versions"] = {"x": "2"}
    with pytest.raises(ConfigError, match=r"versions\.x: '1' in the run, '2' now\n.*--allow-mixed$"):
        command(source, out, load_config("tiny"))
    mixed = load_config("tiny", None, ["placement.allow_mixed=true"])
    assert run_plan.opened(source, out, mixed, RunOptions()).identity.versions == {"x": "2"}


def test_of_a_cluster_only_the_settings_are_known(monkeypatch, out, source):
    monkeypatch.setattr(identity, "joins_cluster", lambda address: True)
    monkeypatch.setattr(identity, "measure_identity", lambda *_, **__: pytest.fail("measured here"))
    assert run_plan.opened(source, out, load_config("tiny"), RunOptions()).identity is None
    with pytest.raises(ConfigError, match=r"compute\.seed"):
        run_plan.opened(source, out, load_config("tiny", None, ["compute.seed=9"]), RunOptions())
    with pytest.raises(ConfigError, match=r"masks\.prior\.kind is unset"):
        identity_before_ray(load_config("tiny", None, ["masks.prior.kind=unset"]))


def test_of_a_gpu_all_but_the_device_is_asked_before_ray(tmp_path):
    on_gpu = ["compute.device=cuda", "placement.fused.num_gpus=1"]
    assert identity_before_ray(load_config("tiny", None, on_gpu)) is None
    gone = load_config("tiny", None, [*on_gpu, f"masks.weights.uri={tmp_path}/sam.pt"])
    with pytest.raises(ConfigError, match="there is no such file"):
        identity_before_ray(gone)


@pytest.fixture(params=["annotate", "dry run", "estimate"])
def refusal(request, monkeypatch, source, tmp_path):
    """Return a function from a config to what the command says."""
    out = str(tmp_path / "out")
    calls = {
        "annotate": lambda config: annotation.annotate(source, out, config),
        "dry run": lambda config: annotation.dry_run(source, out, config),
        "estimate": lambda config: sample_estimate.estimate(source, config, size=1),
    }

    def refused(config):
        with pytest.raises(ConfigError) as told:
            calls[request.param](config)
        assert not (tmp_path / "out").exists()
        return str(told.value)

    return refused


@pytest.mark.parametrize("words", [["composing={}"], ["filtering.fitted.uri=builtin:tiny-vote.fitted.yaml"]])
def test_values_that_were_fitted_with_other_models_are_refused_before_ray(refusal, words):
    longer = "captions.weights.uri=builtin:tiny/coca_longer.safetensors"
    told = refusal(load_config("tiny", assignments=[longer, *words]))
    assert "was fitted with other models than this run has (caption): name a file that was fitted with them" in told
    # What is not used does not matter.
    assert measure_identity(load_config("tiny", assignments=[longer])).weights


def test_all_missing_parts_of_paper_are_told_in_one_message_before_ray(refusal, monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    # CLIP's tag would ask the network.
    clip = "filtering.weights={uri: clip.pt, how_to_get: copy it}"
    told = refusal(load_config("paper", assignments=["compute.device=cpu", clip]))
    first, *parts = told.splitlines()
    assert first == "5 parts that this run needs are not ready:"
    remedies = (
        "curl -L --create-dirs -o checkpoints/sam_vit_h_4b8939.pth",
        "--set masks.prior.kind=none",
        "hf download SeonghoonYu/pseudo-ris",
        "copy it",
        "python -m spacy download en_core_web_lg",
    )
    for number, (part, remedy) in enumerate(zip(parts, remedies, strict=True), start=1):
        assert part.startswith(f"  {number}. ")
        assert remedy in part


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["filtering.keep=[confidence > 0.9]"],
            r"has no confidence: 'confidence > 0\.9' would keep all.*tiny-composed",
        ),
        (
            ["filtering.keep=[truth > 0.1]", "captions.engine=vlm"],
            r"has no truth: 'truth > 0\.1' would keep all.*annotate with captions\.listening",
        ),
    ],
)
def test_a_bound_on_a_score_that_no_stage_computes_is_refused_before_anything_is_read(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        run_plan.opened("nowhere", str(tmp_path), load_config("tiny", None, settings), RunOptions())
