"""A run that one process writes: its bar, what an interrupt says, and its summary."""

import io

import pytest
import typer
from rich.console import Console

from pseudoris.cli.progress import write_with_bar
from pseudoris.cli.summaries import written_view
from pseudoris.schemas.run_records import RunHeader
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.receipts import RunTotals
from pseudoris.training.thread_executor import WrittenRun


@pytest.fixture
def location(tmp_path):
    return RunLocation.open(str(tmp_path / "out"))


def written(*, num_shards_before=0, **totals):
    header = RunHeader.model_construct(num_images=7, num_shards=3)
    return WrittenRun(header, RunTotals(**totals), num_shards_before)


def lines(view):
    console = Console(file=io.StringIO(), width=200, markup=False, color_system=None)
    console.print(view, soft_wrap=True)
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines() if line.strip()]


def test_an_interrupt_ends_as_130_and_says_how_to_go_on(location, capsys):
    def write(on_progress, on_wait):
        on_progress(0, 7)
        raise KeyboardInterrupt

    with pytest.raises(typer.Exit) as ended:
        write_with_bar(location, write, before="planning", during="images")
    assert ended.value.exit_code == 130
    printed = capsys.readouterr().err
    assert f"stopped no committed shard in {location.root} is lost" in printed
    assert "to resume run the same command again" in printed
    assert "Traceback" not in printed


def test_the_summary_has_what_the_run_holds_in_its_own_words_and_order(location):
    counts = {"images": 6, "annotated": 4, "empty": 1, "quarantined": 1, "masks": 1200, "output_bytes": 2048}
    view = written_view(
        location,
        written(**counts, reasons={"corrupt": 1}, num_shards_before=2),
        "D_sem",
        words=("with masks", "without"),
        texts=[("texts", "5 decided")],
        left_out=["3 crowds"],
    )
    shown = lines(view)
    assert shown[:7] == [
        f"{location.root}: D_sem",
        "images 6 of 7: 4 with masks, 1 without, 1 quarantined",
        "masks 1,200",
        "texts 5 decided",
        "output 2.0 KiB",
        "before 2 of 3 shards were committed",
        "left out 3 crowds",
    ]
    assert shown[7] == "quarantined"
    assert shown[8].startswith("1 corrupt")
    assert shown[9] == "tables"
    assert any(line.startswith("expressions") and location.root in line for line in shown[10:])
