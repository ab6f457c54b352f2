"""What an identity is made of."""

from __future__ import annotations

from importlib.metadata import version
from types import SimpleNamespace

import psutil
import pytest

from evidence.recipes.llava_recipe import FOLDER
from pseudoris.pipeline import identity
from pseudoris.pipeline.identity import (
    PACKAGES,
    check_process,
    cpu_measured_here,
    identity_before_ray,
    measure_identity,
)
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config import WeightsConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.run_records import Identity
from pseudoris.workers import pass_sizes
from pseudoris.workers.checkpoints.model_folder import ModelFolder
from pseudoris.workers.checkpoints.weight_files import folder_digest
from pseudoris.workers.stages import STAGES, device_kind, device_versions
from tests.builders.command import python_says
from tests.builders.head import ROOT
from tests.builders.promptable_models import save_model
from tests.builders.runs import stub_config
from tests.builders.sources import write_files

HERE = ("masks.weights.uri=here", "compute.device=cpu")


@pytest.fixture(scope="module")
def measured(stub_engines):
    return measure_identity(stub_config(*HERE))


def test_it_holds_the_versions_of_what_computes_and_of_the_plug_ins(measured):
    assert measured.versions.keys() == {*PACKAGES, "pseudoris.passes", "stub-engines"}
    assert measured.versions["torch"] == version("torch")
    assert measured.versions["stub-engines"] == "1.0"
    assert "absent" not in measured.versions.values()


def test_of_the_parser_it_holds_the_version_and_the_digest_of_its_files(stub_engines, tmp_path, monkeypatch):
    about = {"en_core_web_sm-3.8.0.dist-info/METADATA": b"Name: en_core_web_sm\nVersion: 3.8.0"}
    write_files(tmp_path, {"en_core_web_sm/__init__.py": b"", **about})
    monkeypatch.syspath_prepend(tmp_path)
    config = stub_config(*HERE, "filtering.nouns=spacy")
    first = measure_identity(config)
    write_files(tmp_path, {"en_core_web_sm/__init__.py": b"# another copy of the same version"})
    (difference,) = first.mixed_differences(measure_identity(config))
    assert first.versions["en_core_web_sm"].startswith("3.8.0 sha256:")
    assert "en_core_web_sm" in difference


@pytest.mark.slow
def test_where_no_engine_needs_torch_none_is_loaded(stub_engines):
    code = """
import sys
from pseudoris.pipeline.identity import measure_identity
from tests.builders.runs import stub_config
print(measure_identity(stub_config()).device_kind, "torch" in sys.modules)
"""
    assert python_says(code, cwd=ROOT) == "none False"


@pytest.mark.slow
def test_the_driver_names_its_cpu_as_the_processes_with_models_do_and_loads_no_torch():
    code = """
import sys
from pseudoris.pipeline.identity import cpu_measured_here, identity_before_ray
from pseudoris.schemas.config_layers import load_config
config = load_config("tiny", None, ["placement.address=local"])
with cpu_measured_here(config.compute) as kind:
    print(f"{identity_before_ray(config).device_kind!r}, {kind()}, {'torch' in sys.modules}")
"""
    assert python_says(code, cwd=ROOT) == f"'', {device_kind(load_config('tiny').compute)}, False"


def test_a_torch_that_cannot_be_loaded_is_named(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise ImportError('libomp.so.5: no such file')")
    monkeypatch.syspath_prepend(tmp_path)
    told = r"torch cannot compute on this machine \(ImportError: libomp\.so\.5: no such file\): `pseudoris doctor`"
    with cpu_measured_here(load_config("tiny").compute) as kind, pytest.raises(ConfigError, match=told):
        kind()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"device_kind": "NVIDIA A100"}, "device_kind: 'NVIDIA A100' in the run, 'cpu"),
        ({"versions": {"torch": "1.0"}}, "versions.torch: '1.0' in the run"),
        ({"weights": {"propose": "0" * 64}}, f"weights.propose: '{'0' * 64}' in the run, '{sha256_hex(b'here')}' now"),
    ],
)
def test_a_process_with_another_device_package_or_weight_is_refused_by_its_name(measured, changed, message):
    tree = measured.model_dump()
    for name, value in changed.items():
        tree[name] = {**tree[name], **value} if isinstance(value, dict) else value
    with pytest.raises(ConfigError, match="does not match the run and could give other results") as refusal:
        check_process(Identity(**tree), stub_config(*HERE), STAGES)
    assert message in str(refusal.value)
    assert str(refusal.value).endswith("--allow-mixed") == ("weights" not in changed)


def test_a_process_is_asked_for_the_weights_of_its_own_stages_alone(measured):
    config = stub_config(*HERE)
    other = measured.model_copy(update={"weights": {**measured.weights, "caption": "0" * 64}})
    check_process(other, config, [stage for stage in STAGES if stage.name != "caption"])
    with pytest.raises(ConfigError, match=r"weights\.caption"):
        check_process(other, config, [stage for stage in STAGES if stage.name == "caption"])


def test_with_allow_mixed_a_process_of_another_device_or_version_is_accepted_and_says_so(measured):
    config = stub_config(*HERE, "placement.allow_mixed=true")
    versions = {**measured.versions, "torch": "1.0"}
    other = measured.model_copy(update={"device_kind": "NVIDIA A100", "versions": versions})
    accepted = check_process(other, config, STAGES)
    assert [line.partition(":")[0] for line in accepted] == ["device_kind", "versions.torch"]
    assert check_process(measured, config, STAGES) == ()
    wrong = other.model_copy(update={"weights": {**measured.weights, "caption": "0" * 64}})
    with pytest.raises(ConfigError, match=r"weights\.caption") as refusal:
        check_process(wrong, config, STAGES)
    assert "device_kind" not in str(refusal.value)


@pytest.fixture
def of_folder(tmp_path, stub_engines):
    """The configuration of a run whose proposer reads a model folder."""
    (save_model(tmp_path / "model", "Sam2Model") / "generation_config.json").write_text("{}")
    folder = (f"masks.weights.uri={tmp_path / 'model'}", "masks.engine=sam2", "masks.architecture=null")
    return stub_config(*folder, "compute.device=cpu")


def test_it_holds_what_decides_the_bits_of_its_device(monkeypatch):
    on_gpu = load_config("tiny", assignments=["compute.device=cuda", "placement.fused.num_gpus=1"])
    sizes = {"pseudoris.passes": pass_sizes.pass_sizes_digest()}
    assert device_versions(load_config("tiny")) == sizes
    # Triton's kernels run on no GPU here.
    of_card = {"pseudoris.cuda": "3", "triton": "absent", "pseudoris.decoder": "tree"}
    assert device_versions(on_gpu) == {**sizes, **of_card}
    monkeypatch.setattr(pass_sizes, "PROMPT_TILE", 32)
    assert device_versions(on_gpu) != {**sizes, **of_card}


def test_of_a_model_folder_it_has_the_digest_of_each_part_its_attention_and_versions(of_folder, measured, tmp_path):
    found, folder = measure_identity(of_folder), ModelFolder.open(str(tmp_path / "model"))
    assert found.weights["propose"] == folder.sha256
    assert found.folders == {"propose": {**folder.digests, "attention": "sdpa"}}
    assert found.versions.keys() - measured.versions.keys() == {"transformers", "tokenizers"}
    assert "folders" not in measured.model_dump()
    (tmp_path / "model" / "generation_config.json").write_text('{"top_k": 3}')
    with pytest.raises(ConfigError, match=r"folders\.propose\.config: '.*' in the run, '.*' now") as refusal:
        check_process(found, of_folder, STAGES)
    assert "propose.weights:" not in str(refusal.value)
    check_process(found, of_folder, [stage for stage in STAGES if stage.name == "caption"])


@pytest.mark.slow
def test_a_captioner_that_asks_the_filters_clip_how_alike_masks_are_checks_its_weights_too():
    words = ("captions.engine=vlm", "captions.architecture=null", f"captions.weights.uri={FOLDER}")
    config = load_config("tiny", None, [*words, "captions.options={crop_size: 48}"])
    found, captioner = measure_identity(config), [stage for stage in STAGES if stage.name == "caption"]
    check_process(found, config, captioner)
    other = found.model_copy(update={"weights": {**found.weights, "filter": "0" * 64}})
    with pytest.raises(ConfigError, match=r"weights\.filter: '0{64}' in the run"):
        check_process(other, config, captioner)
    alike = load_config("tiny", None, [*words, "captions.options={crop_size: 48, similarity: one}"])
    check_process(other.model_copy(update={"method": alike.method()}), alike, captioner)


@pytest.mark.long
def test_a_model_folder_that_memory_cannot_hold_is_refused_before_ray(of_folder, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    monkeypatch.setattr(identity, "joins_cluster", lambda address: False)
    with pytest.raises(
        ConfigError, match=r"its [\d,]+ parameters take [\d,]+ bytes in torch.float32, and cpu has 1,000"
    ):
        identity_before_ray(of_folder)


def test_a_model_folder_of_another_digest_is_refused(tmp_path):
    folder = ModelFolder.open(str(save_model(tmp_path / "model", "Sam2Model")))
    assert folder_digest(WeightsConfig(uri=folder.uri, sha256=folder.sha256)) == folder.sha256
    with pytest.raises(ConfigError, match=f"has sha256 {folder.sha256}, expected {'0' * 64}: the folder was changed"):
        folder_digest(WeightsConfig(uri=folder.uri, sha256="0" * 64))


@pytest.mark.slow
@pytest.mark.long
def test_the_shipped_presets_need_no_transformers():
    code = """
import sys
sys.modules["transformers"] = None
from pseudoris.pipeline.identity import measure_identity
from pseudoris.schemas.config_layers import load_config
from pseudoris.workers.stages import STAGES
config = load_config("tiny", None, ["compute.device=cpu"])
measure_identity(config)
for stage in STAGES:
    stage.build(config)
print([stage.engine(config).__name__ for stage in STAGES])
"""
    assert python_says(code, cwd=ROOT) == "['SamProposer', 'CocaCaptioner', 'ClipScorer']"
