"""The notebooks of examples/ run as they stand, and show what is stored with them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[2] / "examples"
ROOT = re.compile(r"[^']*/(?=tests/versions/)")


def executed(name, folder, *further):
    """Return the stored notebook and the same one, run in `folder` with `further` cells at its end."""
    stored, notebook = (nbformat.read(EXAMPLES / name, as_version=4) for _ in range(2))
    notebook.cells += [nbformat.v4.new_code_cell(source) for source in further]
    search_path = os.pathsep.join(filter(None, [str(EXAMPLES.parent), os.environ.get("PYTHONPATH")]))
    resources = {"metadata": {"path": str(folder)}}
    # A busy machine takes its time, and its kernel sends what one cell prints in several pieces.
    patience = {"timeout": 1800, "startup_timeout": 600, "coalesce_streams": True}
    client = NotebookClient(notebook, kernel_name="python3", resources=resources, **patience)
    client.execute(env={**os.environ, "PYTHONPATH": search_path})
    return stored, notebook


def shown(cell):
    """What a cell says in text, without the place of this checkout; what it draws, by its kind."""
    for output in cell.get("outputs", ()):
        if output.output_type == "stream":
            if output.name == "stdout":
                yield output.text
        else:
            yield sorted(output.data), ROOT.sub("", output.data["text/plain"])


@pytest.mark.slow
def test_reading_a_run_needs_the_core_alone_and_shows_what_is_stored():
    check = "import sys; assert not {'torch', 'ray'} & sys.modules.keys()"
    stored, notebook = executed("read_a_run.ipynb", EXAMPLES, check)
    assert [list(shown(cell)) for cell in notebook.cells[:-1]] == [list(shown(cell)) for cell in stored.cells]


@pytest.mark.ray
@pytest.mark.long
def test_a_first_run_annotates_filters_and_exports(tmp_path):
    stored, notebook = executed("first_run.ipynb", tmp_path)
    for old, new in zip(stored.cells, notebook.cells, strict=True):
        kinds = [each if isinstance(each, str) else each[0] for each in shown(new)]
        assert kinds == [each if isinstance(each, str) else each[0] for each in shown(old)], new.source
    assert (tmp_path / "first-run-out/refer/refcoco/instances.json").is_file()


def test_stored_outputs_are_small_and_hold_no_script():
    texts = [path.read_text(encoding="utf-8") for path in EXAMPLES.glob("*.ipynb")]
    assert len(texts) == 2
    assert sum(map(len, texts)) < 300_000
    assert not any(word in text for text in texts for word in ("<script", "/tmp/", "stderr"))
