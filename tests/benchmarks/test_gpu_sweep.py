"""What a sweep recommends for a device."""

import pytest
import torch

from benchmarks import gpu_sweep
from benchmarks.gpu import scenes_with
from benchmarks.gpu_report import Bench, Report
from benchmarks.gpu_sweep import Sweep
from pseudoris.schemas.config_layers import load_config

CANDIDATES = {
    "masks": {"masks.points_per_batch": (64, 144, 256)},
    "captions": {"captions.cache_bytes": (2**30, 2**31), "captions.crops_together": (1, 32)},
}


@pytest.fixture
def sweep():
    bench = Bench(torch.device("cpu"), repeats=1)
    return Sweep("tiny", ["compute.device=cpu"], bench, Report(None), shard=scenes_with(3, 1), kept_share=0.4)


def timed(monkeypatch, seconds):
    """Let a stage take what `seconds` says of the last setting that is tried; 1 second otherwise."""
    tried = []

    def answer(self, stage, settings):
        tried.append((stage, {**self.chosen, **settings}))
        return next((seconds[item] for item in settings.items() if item in seconds), 1.0)

    monkeypatch.setattr(Sweep, "_seconds", answer)
    return tried


def loaded(text, tmp_path):
    path = tmp_path / "tuned.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config("tiny", path)


def test_the_fastest_values_are_recommended_in_a_file_that_a_run_reads(monkeypatch, sweep, tmp_path):
    timed(monkeypatch, {("masks.points_per_batch", 256): 0.5, ("captions.crops_together", 32): 0.4})
    text = sweep.run(CANDIDATES, has_compilation=False)
    config = loaded(text, tmp_path)
    assert (config.masks.points_per_batch, config.captions.crops_together) == (256, 32)
    assert config.captions.cache_bytes == load_config("tiny").captions.cache_bytes
    assert text.startswith("# For cpu, ")
    assert "0.9 s an image; 2 s with the settings of tiny" in text


@pytest.mark.parametrize(("compiled_s", "is_kept"), [(0.8, True), (0.99, False)])
def test_compilation_is_recommended_where_all_stages_together_gain(monkeypatch, sweep, tmp_path, compiled_s, is_kept):
    timed(monkeypatch, {("compute.is_compiled", True): compiled_s})
    monkeypatch.setattr(gpu_sweep, "check_compiled", lambda config: None)
    text = sweep.run(CANDIDATES, has_compilation=True)
    assert loaded(text, tmp_path).compute.is_compiled == is_kept


def test_compilation_that_changes_results_is_not_recommended(monkeypatch, sweep, capsys):
    def differ(config):
        assert config.compute.is_compiled
        raise ValueError("scores differ by 0.1")

    timed(monkeypatch, {("compute.is_compiled", True): 0.5})
    monkeypatch.setattr(gpu_sweep, "check_compiled", differ)
    sweep.run(CANDIDATES, has_compilation=True)
    assert sweep.chosen == {}
    assert "compute.is_compiled=true: ValueError: scores differ by 0.1" in capsys.readouterr().out


def test_a_value_that_runs_out_of_memory_is_not_recommended(monkeypatch, sweep, capsys):
    def work(self, stage, config):
        if config.masks.points_per_batch == 256:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return lambda: None

    monkeypatch.setattr(Sweep, "_work", work)
    sweep.run({"masks": {"masks.points_per_batch": (256,)}}, has_compilation=False)
    assert sweep.chosen == {}
    assert "masks.points_per_batch=256: OutOfMemoryError: CUDA out of memory" in capsys.readouterr().out
