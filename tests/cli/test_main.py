"""The command line as a whole."""

from importlib import metadata

from tests.builders.command import pseudoris


def test_help_lists_every_command_at_a_glance():
    shown = pseudoris("--help")
    assert shown.returncode == 0
    commands = ("annotate", "estimate", "status", "verify", "parts", "gc", "export", "gallery", "doctor", "demo")
    assert all(command in shown.stdout for command in commands)
    assert len(shown.stdout.splitlines()) < 40


def test_an_unknown_option_is_refused_with_exit_code_two():
    shown = pseudoris("annotate", "--presett", "tiny")
    assert shown.returncode == 2
    assert "Traceback" not in shown.stderr


def test_the_version_is_the_packages():
    shown = pseudoris("--version")
    assert (shown.returncode, shown.stdout) == (0, f"pseudoris {metadata.version('pseudoris')}\n")
