"""A run whose captioner is a vision-language model, from `annotate` to `verify`: the tiny LLaVA of recipes/."""

from __future__ import annotations

import json
import shutil

import pyarrow.parquet as pq
import pytest

from pseudoris.store.location import RunLocation
from pseudoris.store.runs.header import require_header
from recipes.llava_recipe import FOLDER
from tests.builders.command import OPTIONS, pseudoris_here
from tests.builders.runs import write_source

OWN = (
    *("--set", "captions.engine=vlm", "--set", "captions.architecture=null", "--set", "captions.context_scales=[1.2]"),
    *("--set", "captions.beam.num_beams=0", "--set", "captions.sampling={top_k: [3], top_p: [0.8], max_others: 6}"),
    *("--set", "captions.max_length=12", "--set", "captions.listening={}"),
)


def command(source, out, *, folder=FOLDER, **options):
    settings = json.dumps({"crop_size": 48, **options})
    model = ("--set", f"captions.weights.uri={folder}", "--set", f"captions.options={settings}")
    return ("annotate", "--preset=tiny", str(source), str(out), *OPTIONS, *OWN, *model)


@pytest.mark.ray
def test_a_vision_language_model_captions_a_run_that_verifies(ray_session, tiny_run, tmp_path):
    out, source = tmp_path / "out", shutil.copy(tiny_run.source / "scene-000.png", tmp_path)
    done = pseudoris_here(*command(source, out, has_marked_crop=True))
    assert done.returncode == 0, done.stderr
    assert pseudoris_here("verify", str(out)).returncode == 0
    rows = pq.read_table(out / "expressions").to_pylist()
    drawn = [sample for row in rows for sample in row["samples"]]
    assert {sample["crop"] for sample in drawn} == {"masked", "context_1.2", "marked"}
    assert {sample["decoder"] for sample in drawn} == {"top_k", "top_p"}
    assert any(row["kept"] for row in rows)
    assert all(row["listener"] is not None for row in rows)
    identity = require_header(RunLocation.open(str(out))).identity
    assert {"weights", "tokenizer", "chat_template", "processor", "attention"} <= identity.folders["caption"].keys()
    assert {"transformers", "tokenizers"} <= identity.versions.keys()
    # Another prompt is another run.
    other = pseudoris_here(*command(source, out, has_marked_crop=True, prompt="say"))
    assert other.returncode != 0
    assert "captions.options.prompt" in other.stderr


def test_a_model_without_a_chat_template_is_refused_before_ray_starts(tmp_path):
    folder = tmp_path / "silent"
    shutil.copytree(FOLDER, folder)
    (folder / "chat_template.jinja").unlink()
    source = write_source(tmp_path / "in", num_images=1)
    done = pseudoris_here(*command(source, tmp_path / "out", folder=folder))
    assert done.returncode != 0
    assert "LlavaForConditionalGeneration has no chat template" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "_run.json").exists()
