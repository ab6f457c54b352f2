"""What a mutant is: one deliberate break of the code, and the test that must see it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mutant:
    """A text of a file, replaced by another one.

    Attributes:
        name: What breaks, in a few words; no other mutant has it.
        file: The file, from the root of the repository.
        old: A text that stands in it once.
        new: What replaces it.
        tests: pytest's ids of the tests that must fail.
        unobservable: Why no test can see it; empty if one must.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    unobservable: str = ""

    @property
    def room(self) -> str:
        """The first folder of the file."""
        return self.file.partition("/")[0]

    def applied(self, text: str) -> str:
        """Return the file's text with the break.

        Raises:
            ValueError: The old text does not stand there once.
        """
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: the old text stands {text.count(self.old)} times in {self.file}, not once")
        return text.replace(self.old, self.new)
