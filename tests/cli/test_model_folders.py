"""`pseudoris annotate` to `verify` with a proposer or a captioner that opens a model folder of transformers."""

from __future__ import annotations

import json
import shutil

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from evidence.recipes.llava_recipe import FOLDER
from pseudoris.files.location import RunLocation
from pseudoris.store.runs.header import require_header
from pseudoris.workers.checkpoints.model_folder import ModelFolder
from tests.builders.command import OPTIONS, pseudoris_here
from tests.builders.promptable_models import save_model
from tests.builders.runs import STUBS, part_digests, write_source

CONCEPTS = ["red car", "dog"]
# Under which noise passes, for a few masks an image.
LOOSE = (
    *("masks.architecture=null", "masks.points_per_side=3", "masks.pred_iou_thresh=0.2"),
    *("masks.stability_score_thresh=0.2", "masks.stability_score_offset=0.01", "masks.crop_n_layers=0"),
)


def proposing(source, out, folder, engine):
    concepts = [f"masks.options={{concepts: [{', '.join(CONCEPTS)}]}}"] if engine == "sam3_concepts" else []
    chosen = [f"masks.engine={engine}", f"masks.weights.uri={folder}", *LOOSE, *concepts, *STUBS[1:3]]
    return ("annotate", "--preset=tiny", str(source), str(out), *OPTIONS, *(f"--set={each}" for each in chosen))


@pytest.mark.ray
@pytest.mark.parametrize(
    ("class_name", "engine"),
    [
        ("Sam2Model", "sam2"),
        pytest.param("EdgeTamModel", "sam2", marks=pytest.mark.long),
        pytest.param("Sam3TrackerModel", "sam3", marks=pytest.mark.long),
        pytest.param("Sam3VideoModel", "sam3", marks=pytest.mark.long),
        pytest.param("Sam3Model", "sam3_concepts", marks=pytest.mark.long),
    ],
)
def test_a_run_is_whole_and_names_its_model(ray_session, tmp_path, class_name, engine):
    source, folder = write_source(tmp_path / "in", num_images=2), save_model(tmp_path / "model", class_name)
    pseudoris_here(*proposing(source, tmp_path / "out", folder, engine), code=0)
    pseudoris_here("verify", str(tmp_path / "out"), code=0)
    header = require_header(RunLocation.open(str(tmp_path / "out")))
    assert header.identity.weights["propose"] == ModelFolder.open(str(folder)).sha256
    assert header.identity.folders.keys() == {"propose"}
    assert "transformers" in header.identity.versions
    assert "architecture" not in header.identity.method["masks"]
    rows = ds.dataset(tmp_path / "out" / "masks").to_table().to_pylist()
    assert rows
    if engine == "sam3_concepts":
        assert header.identity.method["masks"]["options"]["concepts"] == CONCEPTS
        assert {row["prior"] for row in rows} <= {f"concept:{number}" for number in range(len(CONCEPTS))}
        assert {row["predicted_iou"] for row in rows} == {None}
        pseudoris_here(*proposing(source, tmp_path / "again", folder, engine), code=0)
        assert part_digests(tmp_path / "out") == part_digests(tmp_path / "again")
    else:
        assert {row["prior"] for row in rows} == {"none"}
        assert min(row["predicted_iou"] for row in rows) > 0.2


@pytest.mark.parametrize(
    ("class_name", "engine", "message"),
    [
        ("Sam3TrackerModel", "sam2", "is of type sam3_tracker: --set masks.engine=sam3"),
        *(
            pytest.param(*each, marks=pytest.mark.long)
            for each in (
                ("Sam3TrackerModel", "sam3_concepts", "is of type sam3_tracker: --set masks.engine=sam3"),
                ("Sam2Model", "sam", "are a model folder, and this engine reads one file"),
                ("Sam3TrackerModel", "sam3", "masks.options has concepts, but masks.engine=sam3 takes none: remove"),
            )
        ),
    ],
)
def test_the_wrong_engine_is_refused_before_a_run_begins(stub_engines, tmp_path, class_name, engine, message):
    source, folder = write_source(tmp_path / "in", num_images=2), save_model(tmp_path / "model", class_name)
    words = proposing(source, tmp_path / "out", folder, engine)
    if engine == "sam3":
        words = (*words, "--set", "masks.options.concepts=[dog]")
    if engine == "sam":
        words = (*words, "--set", "masks.architecture=vit_b")
    done = pseudoris_here(*words, code=2)
    assert message in done.stderr
    assert not (tmp_path / "out" / "_run.json").exists()


OWN = (
    *("--set", "captions.engine=vlm", "--set", "captions.architecture=null", "--set", "captions.context_scales=[1.2]"),
    *("--set", "captions.beam.num_beams=0", "--set", "captions.sampling={top_k: [3], top_p: [0.8], max_others: 6}"),
    *("--set", "captions.max_length=12", "--set", "captions.listening={}"),
)


def captioning(source, out, *, folder=FOLDER, **options):
    settings = json.dumps({"crop_size": 48, **options})
    model = ("--set", f"captions.weights.uri={folder}", "--set", f"captions.options={settings}")
    return ("annotate", "--preset=tiny", str(source), str(out), *OPTIONS, *OWN, *model)


@pytest.mark.ray
def test_a_vision_language_model_captions_a_run_that_verifies(ray_session, tiny_run, tmp_path):
    out, source = tmp_path / "out", shutil.copy(tiny_run.source / "scene-000.png", tmp_path)
    pseudoris_here(*captioning(source, out, has_marked_crop=True), code=0)
    pseudoris_here("verify", str(out), code=0)
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
    other = pseudoris_here(*captioning(source, out, has_marked_crop=True, prompt="say"), code=2)
    assert "captions.options.prompt" in other.stderr


@pytest.mark.long
def test_a_model_without_a_chat_template_is_refused_before_ray_starts(tmp_path):
    folder = tmp_path / "silent"
    shutil.copytree(FOLDER, folder)
    (folder / "chat_template.jinja").unlink()
    source = write_source(tmp_path / "in", num_images=1)
    done = pseudoris_here(*captioning(source, tmp_path / "out", folder=folder), code=2)
    assert "LlavaForConditionalGeneration has no chat template" in done.stderr
    assert not (tmp_path / "out" / "_run.json").exists()
