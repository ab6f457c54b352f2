"""What the pages say of the run's rule, and that the slider keeps what `refilter` would keep."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from pseudoris.cli.gallery import write_pages
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.refiltered_run import RuleChange, refilter
from tests.builders.scored_runs import scored_run
from tests.viewer.builders import annotated, set_tau, write_run

SAID = [
    (0, "meets neither", 1.2, 1, {"kept": False, "correctness": 0.25}),
    (0, "meets tau alone", 1.5, 1, {"kept": False, "correctness": 0.25}),
    (1, "meets both", 1.5, 0, {"kept": True, "correctness": 6.0}),
]
KEEP = "filtering.keep=[correctness > 5]"


def gallery_of(folder, *said, settings=(), **changes):
    makers = [(f"{n}.png", lambda entry, each=each: annotated(entry, 2, each)) for n, each in enumerate(said)]
    run = write_run(folder / "run", *makers, settings=settings, **changes)
    return (folder / "run" / "gallery", write_pages(run.root))[0]


def reasons(page, mask):
    page.locator(f'#tabs [data-mask="{mask}"]').click()
    found = {}
    for number in range(page.locator("#expressions .line").count()):
        line = page.locator("#expressions .line").nth(number)
        text, *rest = line.inner_text().split("\n")
        line.click()
        found[text.removesuffix(" ×2")] = (rest[0], page.locator("#expressions .is-open .why").inner_text())
    return found


@pytest.mark.browser
def test_a_condition_that_is_not_met_is_named_as_the_reason(open_page, tmp_path):
    page = open_page((gallery_of(tmp_path, SAID, settings=[KEEP]) / "index.html").as_uri())

    told = reasons(page, 0)
    assert told["meets tau alone"] == (
        "not correctness > 5",
        "Not kept. The rule of the run has more conditions: its correctness of 0.250 does not meet correctness > 5.",
    )
    assert told["meets neither"][1].endswith("Also, its correctness of 0.250 does not meet correctness > 5.")
    set_tau(page, 1.1)
    page.locator("#yield >> text=1 kept of 3").wait_for()


@pytest.mark.browser
def test_where_another_scorer_decided_tau_is_no_reason(open_page, tmp_path):
    said = [(0, "kept by it", 1.1, 1, {"kept": True}), (0, "rejected by it", 1.9, 1, {"kept": False})]
    folder = gallery_of(tmp_path, said, settings=["filtering.engine=siglip"])
    page = open_page((folder / "index.html").as_uri())

    told = reasons(page, 0)
    assert told["kept by it"][1].startswith("Kept. A plug-in scorer kept it. Its bound is not known here.")
    assert told["rejected by it"][1].startswith("Not kept. A plug-in scorer rejected it")
    quality = (folder / "quality.html").read_text(encoding="utf-8")
    assert "A plug-in scorer decided what is kept. Its bound may differ from τ." in quality
    assert 'class="marker"' not in quality


@pytest.mark.long
@pytest.mark.browser
def test_the_slider_keeps_what_refilter_keeps_at_every_tau(open_page, tmp_path):
    run = RunLocation.open(str(tmp_path / "run"))
    scored_run(run, "filtering.keep=[correctness >= 0.5, log_prob > -7, count < 4]", has_humans=True)
    write_pages(run.root)
    page = open_page((tmp_path / "run" / "gallery" / "index.html").as_uri())

    for tau in (0.7, 0.9, 1.2, 1.5):
        totals = refilter(run, RunLocation.open(str(tmp_path / f"at {tau}")), RuleChange(tau)).totals
        set_tau(page, tau)
        page.locator(f"#tau-value >> text=/^{tau}$/").wait_for()
        # The figures follow in the next frame.
        page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
        shown = re.sub(r"\s", "", page.locator("#yield b").first.inner_text())
        assert (tau, int(shown)) == (tau, totals.kept)


@pytest.mark.browser
def test_of_several_masks_the_tables_word_stands_at_every_tau(open_page, tmp_path):
    def of_both(entry):
        image = annotated(entry, 2, [(0, "both of them", 0.9, None), (1, "a circle", 1.5, 0)])
        both, one = image.expressions
        group = replace(both, target_mask_ids=tuple(mask.mask_id for mask in image.masks), kind="group", kept=True)
        return replace(image, expressions=(group, one))

    run = write_run(tmp_path / "run", ("a.png", of_both))
    page = open_page(Path(write_pages(run.root)).as_uri())
    set_tau(page, 1.6)
    page.locator("#yield >> text=1 kept of 2").wait_for()

    page.locator('#tabs [data-mask="0"]').click()
    assert page.locator("#expressions .kept .reason").inner_text() == "of several masks"
