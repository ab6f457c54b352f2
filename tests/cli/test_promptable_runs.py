"""`pseudoris annotate` to `verify` with each proposer that opens a model folder of transformers."""

from __future__ import annotations

import pyarrow.dataset as ds
import pytest

from pseudoris.store.location import RunLocation
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


def _words(source, out, folder, engine):
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
        ("Sam3Model", "sam3_concepts"),
    ],
)
def test_a_run_is_whole_and_names_its_model(ray_session, tmp_path, class_name, engine):
    source, folder = write_source(tmp_path / "in", num_images=2), save_model(tmp_path / "model", class_name)
    done = pseudoris_here(*_words(source, tmp_path / "out", folder, engine))
    assert done.returncode == 0, done.stdout + done.stderr
    verified = pseudoris_here("verify", str(tmp_path / "out"))
    assert verified.returncode == 0, verified.stdout + verified.stderr
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
        assert pseudoris_here(*_words(source, tmp_path / "again", folder, engine)).returncode == 0
        assert part_digests(tmp_path / "out") == part_digests(tmp_path / "again")
    else:
        assert {row["prior"] for row in rows} == {"none"}
        assert min(row["predicted_iou"] for row in rows) > 0.2


@pytest.mark.parametrize(
    ("class_name", "engine", "message"),
    [
        ("Sam3TrackerModel", "sam2", "is of type sam3_tracker: --set masks.engine=sam3"),
        ("Sam3TrackerModel", "sam3_concepts", "is of type sam3_tracker: --set masks.engine=sam3"),
        ("Sam2Model", "sam", "are a model folder, and this engine reads one file"),
        ("Sam3TrackerModel", "sam3", "masks.options has concepts, but masks.engine=sam3 takes none: remove them"),
    ],
)
def test_the_wrong_engine_is_refused_before_a_run_begins(stub_engines, tmp_path, class_name, engine, message):
    source, folder = write_source(tmp_path / "in", num_images=2), save_model(tmp_path / "model", class_name)
    words = _words(source, tmp_path / "out", folder, engine)
    if engine == "sam3":
        words = (*words, "--set", "masks.options.concepts=[dog]")
    if engine == "sam":
        words = (*words, "--set", "masks.architecture=vit_b")
    done = pseudoris_here(*words)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "_run.json").exists()
