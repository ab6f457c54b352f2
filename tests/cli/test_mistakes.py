"""A user's mistake, of any command that needs no run to see it: one message, exit code 2, and nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders.command import pseudoris_here
from tests.builders.human import write_small_refer
from tests.builders.sources import write_files
from tests.builders.studio import write_project

STUDIO = "import ana.json run out --format label-studio"
REGRESSION = "train ppt --out out --preset tiny --set generator.point_head=regression"
MISTAKES = [
    *(
        (f"annotate {each}", "quote it: 'folder/*.jpg'")
        for each in ("a.jpg b.jpg c.jpg out", "a.jpg b.jpg", "cats dogs")
    ),
    (f"annotate in out --limit {10**23}", "Invalid value for '--limit'"),
    (f"audit draw out audit --pairs {10**23}", "/ '--pairs'"),
    (f"estimate in --sample {2**63}", "Invalid value for '--sample'"),
    ("status out --every nan", "Invalid value for '--every'"),
    *(
        (f"doctor --preset base --card-memory={each}", "Invalid value for '--card-memory'")
        for each in ("0", "-24", "nan", "inf", "24GB", "1e9")
    ),
    *(
        (f"{each} none", "there is no run at")
        for each in ("status", "verify", "stats", "sample", "parts", "gc", "gallery")
    ),
    *(
        (f"annotate cats none {words}", f"leave {option} out for a new run, or name the OUT of the run")
        for option, words in (
            ("--moved-from", "--moved-from dogs"),
            ("--moved-from", "--preset=tiny --moved-from dogs"),
            ("--extend and --moved-from", "--moved-from dogs --extend"),
            ("--repair", "--preset=tiny --repair"),
        )
    ),
    *(
        (f"{each} --accept-domain", "tiny-composed: drawn scenes alone")
        for each in ("annotate cats none", "estimate cats")
    ),
    ("export none there", "there is no run at"),
    ("export cats there", "cats: it is a folder of images, such as a.jpg. Annotate it first: start one with"),
    ("export none there --format refr", "Did you mean 'refer'?"),
    ("annotate cats out --set sam.min_area=3", "sam: unknown key. The groups are preset, source, images, masks,"),
    ("export none there --format yolo", "'--format': 'yolo' is not one of 'parquet'"),
    ("export none there --exclude none.csv", "none.csv' does not exist"),
    ("refilter none new --tau inf", "inf is not possible: give a finite number"),
    ("doctor --preset base . --card-memory=24", "it checks nothing: leave out SOURCE and OUT"),
    ("import nowhere images out", "'nowhere' does not exist"),
    ("import refcoco nowhere out", "does not exist"),
    ("import refcoco images out --split testA", "Its splits are train (5), val (5)"),
    ("import refcoco images out --prefix ../up", "--prefix has the file_name '../up', which is outside"),
    ("import README.md images out", "neither the folder of a REFER dataset, nor its refs(…).p, nor a COCO .json file"),
    (
        "import refcoco refcoco out",
        "None of the 5 files of ANNOTATION is below IMAGES 'refcoco'. The first one is train2014/0",
    ),
    ("import refcoco images out --prefix else", "The first one is else/train2014/0.png. See --prefix"),
    ("import s3://key:secret@bucket/x images out", "environment"),
    ("import refcoco images out --set shards.max_image=3", "did you mean shards.max_images"),
    (f"{STUDIO} --set shards.max_images=3", "--format label-studio takes only source.endpoint_url"),
    (f"{STUDIO} --set placement.allow_mixed=true", "there is no run at"),
    (f"{STUDIO} --set source.endpoint_url=http://localhost:9", "there is no run at"),
    ("ppt objects none out", "none' does not exist. The nearest folder that exists is "),
    ("ppt objects . out --preset huge", "no preset 'huge'. The presets are tiny, paper"),
    ("ppt objects . out --names no.csv", "no.csv cannot be read"),
    ("ppt objects flat out --set grounding.points=4", "grounding.points: unknown key"),
    ("ppt objects flat out --set pairs", "is not of the form key=value"),
    ("ppt objects flat out", "flat.png is not in a class folder"),
    ("ppt compose none out --set compose.layouts=[[1,1]]", "a mosaic of 1 x 1 has no positions"),
    *((f"ppt {each} none out", "there is no run at") for each in ("compose", "pairs")),
    ("ppt compose a a/b", "would be inside its parent"),
    ("train ppt --out out", "There is nothing to train on. Give --d-sem"),
    ("train ppt --out out --d-sem none", "there is no run at"),
    ("train ppt --out out --preset papr", "no preset 'papr'. The presets are paper, tiny; did you mean 'paper'"),
    ("train ppt --out out --set generator.widht=3", "generator.widht"),
    ("train ppt --out out --set training.optimiser=adam --set training.weight_decay=0.1", "adam has no decay"),
    ("train ppt --out out --set data.pairs_per_batch=5 --set data.pairs_per_image=2", "5 is not a multiple of"),
    ("train ppt --out out --set training.num_devices=3", "cannot be split over training.num_devices 3"),
    ("train ppt --out out --set training.num_steps=5", "num_steps=5 would be ignored"),
    (f"{REGRESSION} --set objective.look=0 --set generator.response_gain=0", "and anchor_gain 6.0. Set both to 0"),
    (f"{REGRESSION} --set generator.response_gain=0 --set generator.anchor_gain=0", "Set objective.look to 0"),
    ("calibrate none --to no/x.yaml", "The folder no for x.yaml does not exist. Create it first"),
    ("calibrate none --to .", "is a folder. Give a file name in it"),
    ("calibrate none --coverage 0.65", "--coverage 0.65 needs --truth. Give --truth, or leave --coverage out"),
    ("calibrate none --audit x --composer", "and the other of --audit, --composer out"),
    *(
        (f"calibrate none {given} {label}", message)
        for label in ("--truth synthworld", "--coverage 0.8", "--yield 2", "--images 3")
        for given, message in (
            ("--composer", "--composer needs no labels: leave --truth, --coverage, --yield"),
            ("--audit x", "--audit has its own verdicts: leave --truth"),
        )
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A REFER dataset, and what else the mistakes name."""
    folder = tmp_path_factory.mktemp("a [1] {b,c} é%20*")
    write_small_refer(folder)
    write_project(folder / "ana.json", [])
    names = ("README.md", "a.jpg", "b.jpg", "cats/a.jpg", "dogs/b.jpg", "flat/flat.png")
    return write_files(folder, dict.fromkeys(names, b"no annotation"))


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[words for words, _ in MISTAKES])
def test_a_users_mistake_is_one_message_and_nothing_is_written(folder, words, message):
    before = sorted(filter(Path.is_file, folder.rglob("*")))

    failed = pseudoris_here(*words.split(), cwd=folder, code=2)

    assert message in " ".join(failed.stderr.split())
    assert "secret@" not in failed.stderr
    assert sorted(filter(Path.is_file, folder.rglob("*"))) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("annotate cats out --preset {}", "unknown preset '"),
        ("annotate cats out --preset=tiny --set {}", "is not of the form key=value"),
        ("export cats out --format={}", "is not one of 'parquet'"),
        ("export {} out", "the path is too long for the file system"),
        ("export cats out --{}", "No such option: --"),
    ],
)
def test_at_most_200_letters_of_a_word_are_repeated(folder, words, message):
    given = [word.format("A" * 100_000) for word in words.split()]
    said = pseudoris_here(*given, cwd=folder, code=2).stderr
    assert message in " ".join(said.split())
    assert "A" * 50 in said
    assert said.count("A") < 220
