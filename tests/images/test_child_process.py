"""A child process with pipes: it finds the package, and what libraries print does not tear its answers."""

from __future__ import annotations

import signal

import pytest

from pseudoris.images.child_process import is_external_signal, start_child

MODULE = """
import os
from pseudoris.images.child_process import reserve_stdout
requests, answers = reserve_stdout()
print("a library says hello", flush=True)
os.write(1, b"and so does one in C")
answers.write(requests.read() + os.environ["WORD"].encode())
answers.flush()
"""


def test_a_child_answers_with_nothing_but_its_answers(tmp_path, monkeypatch, capfd):
    (tmp_path / "answering_child.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    child = start_child("answering_child", environment={"WORD": "!"})
    answer, _ = child.communicate(b"hello")
    assert (answer, child.returncode) == (b"hello!", 0)
    assert "a library says hello" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("status", "is_external"),
    [(-signal.SIGKILL, True), (-signal.SIGTERM, True), (-signal.SIGSEGV, False), (-signal.SIGABRT, False), (1, False)],
)
def test_signals_that_no_image_causes_come_from_outside(status, is_external):
    assert is_external_signal(status) == is_external
