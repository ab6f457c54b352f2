"""`grounding_check` as a user meets it: from `annotate` to `verify`, in keep rules, and what is refused before Ray."""

from __future__ import annotations

import pytest

from pseudoris.files.location import RunLocation
from pseudoris.pipeline import identity, run_plan
from pseudoris.primitives.errors import ConfigError
from pseudoris.store.runs.header import require_header
from pseudoris.store.tables.open_run import OpenRun
from tests.builders.command import OPTIONS, invoke, pseudoris_here
from tests.builders.head import ROOT
from tests.builders.images import png
from tests.builders.runs import STUBS, part_digests, write_source
from tests.builders.vlms import save_vlm

CHECK = "grounding_check={{architecture: 'builtin:tiny/clip.json', weights: {{uri: '{}'}}, temperature: 0.1}}"
ANOTHER = ("--set", CHECK.format("random:7"))
MODEL_CONFIG = ROOT / "workers" / "checkpoints" / "tiny" / "clip.json"
# A vision-language model without tokens of their own for the letters of the choices.
WITHOUT_LETTERS = ROOT / "evidence" / "recipes" / "tiny_llava"
SHARE = "grounding_share > 0.3"


def rows_of(out):
    return OpenRun.at(RunLocation.open(str(out))).table("expressions").to_pylist()


@pytest.mark.ray
@pytest.mark.long
def test_a_run_is_checked_verified_and_filtered_by_the_second_opinion(tiny_run, ray_session, tmp_path):
    bounded, checked, again = (tmp_path / name for name in ("bounded", "checked", "again"))
    words = ("--set", f"filtering.keep=['{SHARE}']")
    pseudoris_here("annotate", "--preset=tiny", str(tiny_run.source), str(bounded), *OPTIONS, *ANOTHER, *words, code=0)
    kept = [row["grounding_share"] for row in rows_of(bounded) if row["kept"]]
    assert kept
    assert min(kept) > 0.3
    for source, out, keep in ((bounded, checked, "none"), (checked, again, SHARE)):
        pseudoris_here("refilter", str(source), str(out), "--keep", keep, code=0)
    assert part_digests(again) == part_digests(bounded)

    # Nothing but the second opinion differs from a run without one.
    before, now = rows_of(tiny_run.out), rows_of(checked)
    shares = [row["grounding_share"] for row in now]
    assert len({round(share, 6) for share in shares}) > 10
    for row in now:
        assert row["grounding_choice"] in (0.0, 1.0)
        row.update(grounding_choice=None, grounding_share=None, grounding_rival=None)
    assert now == before
    for out in (bounded, checked, again):
        pseudoris_here("verify", str(out), code=0)
    assert "second opinion" in (bounded / "DATACARD.md").read_text()


@pytest.mark.ray
@pytest.mark.long
def test_a_vision_language_model_checks_a_run_and_its_folder_is_in_the_identity(ray_session, tmp_path):
    folder, source, out = save_vlm(tmp_path / "model"), tmp_path / "in", tmp_path / "out"
    write_source(source, num_images=4)
    settings = (*STUBS[:3], f"grounding_check={{engine: vlm, weights: {{uri: '{folder}'}}}}")
    words = [word for each in settings for word in ("--set", each)]
    pseudoris_here("annotate", "--preset=tiny", str(source), str(out), *OPTIONS, *words, code=0)
    rows = rows_of(out)
    assert len({row["grounding_share"] for row in rows}) > 5
    assert {row["grounding_choice"] for row in rows} == {0.0, 1.0}
    assert require_header(RunLocation.open(str(out))).identity.folders["check"]
    pseudoris_here("verify", str(out), code=0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            (CHECK.format("builtin:tiny/coca.safetensors"),),
            r"grounding_check\.weights are those of captions .*own work",
        ),
        ((CHECK.format("builtin:tiny/clip.safetensors"),), r"grounding_check\.weights are those of filtering"),
        # The scorer's digest is then over both files.
        (
            (CHECK.format("builtin:tiny/clip.safetensors"), f"filtering.architecture={MODEL_CONFIG}"),
            r"grounding_check\.weights are those of filtering",
        ),
        ((CHECK.format("none.pt"),), "none.pt"),
        (
            (f"filtering.keep=['{SHARE}']",),
            r"has no grounding_share: .* would keep all.*annotate with grounding_check$",
        ),
        (("grounding_check={weights: {uri: 'random:7'}}",), "the engine clip needs an architecture"),
        (
            ("grounding_check={engine: oracle, weights: {uri: 'random:7'}}",),
            r"grounding_check\.engine='oracle': no such engine in the entry points 'pseudoris\.checks' \(known: clip",
        ),
        pytest.param(
            (f"grounding_check={{engine: vlm, weights: {{uri: '{WITHOUT_LETTERS}'}}}}",),
            "no token of its own for the letter B",
            marks=pytest.mark.long,
        ),
    ],
)
def test_what_cannot_be_a_second_opinion_is_refused_before_ray(monkeypatch, tmp_path, words, message):
    # Whether or not other tests of this process have a Ray.
    monkeypatch.setattr(identity, "joins_cluster", lambda address: False)
    monkeypatch.setattr(run_plan, "connected", lambda *_: pytest.fail("Ray was started"))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(png())
    settings = [word for each in words for word in ("--set", each)]
    with pytest.raises(ConfigError, match=message):
        invoke("annotate", "--preset=tiny", tmp_path / "in", tmp_path / "out", "--address", "local", *settings)
    assert not (tmp_path / "out").exists()
