"""Runs of scenes, and who speaks in them."""

import json
from pathlib import Path

from experiments.quality.scene_runs import (
    ANNOTATION_NAME,
    IMAGES_FOLDER,
    SPEAKERS,
    SceneRun,
    image_name,
    write_scenes,
)
from pseudoris.synthworld.scenes import Split, make_scene


def test_only_a_voice_other_than_the_first_is_in_the_name_of_a_folder() -> None:
    assert SceneRun(Split.TEST, 150).name == "default-test-0-150"
    assert SceneRun(Split.TEST, 150, voice="second").name == "default-test-0-150-second"


def test_voices_speak_otherwise_of_the_same_images(tmp_path: Path) -> None:
    written = {}
    for voice in ("first", "second"):
        write_scenes(tmp_path / voice, [make_scene(Split.TEST, 3)], SPEAKERS[voice])
        document = json.loads((tmp_path / voice / ANNOTATION_NAME).read_text(encoding="utf-8"))
        texts = {text for each in document["annotations"] for text in each["captions"]}
        written[voice] = (texts, (tmp_path / voice / IMAGES_FOLDER / image_name(0)).read_bytes())
    assert written["first"][1] == written["second"][1]
    assert written["first"][0].isdisjoint(written["second"][0])
