import pytest

from experiments.second_voice.forms import FAMILIAR_FORMS, NEW_FORMS, slots_of
from pseudoris.synthworld.grammar import Description
from pseudoris.synthworld.references import Extreme, NamedObject, Ordinal, Reference, Relation

STAR = Description("star", colour="red", size="small")
WITH_HAT = Description("star", colour="red", part="hat")
RING = Relation("left of", Description("ring", pattern="plain"))


def first_of(form: str, reference: Reference, *, is_thing_enough: bool = True) -> str:
    """Return a form filled with the first alternative of each slot."""
    slots = slots_of(reference, lambda word: word, is_thing_enough=is_thing_enough)
    return form.format(**{name: alternatives[0] for name, alternatives in slots.items()})


@pytest.mark.parametrize(
    ("form", "reference", "text"),
    [
        ("{indefinite}", NamedObject(STAR), "a small red star"),
        ("{swapped}", NamedObject(STAR), "red small star"),
        ("{trailing}", NamedObject(STAR), "star small red"),
        ("with a {part} the {unparted}", NamedObject(WITH_HAT), "with a hat the red star"),
        ("{listed}", NamedObject(WITH_HAT), "star, red, with a hat"),
        ("the {bare} {clause}", NamedObject(WITH_HAT), "the star that is red and has a hat"),
        ("that {colour} thing, the {uncoloured}", NamedObject(WITH_HAT), "that red thing, the star with a hat"),
        ("the {colourless} in {colour}", NamedObject(STAR), "the small star in red"),
        ("the {thing}", NamedObject(WITH_HAT), "the red thing with a hat"),
        (
            "the {bare} that is {both} and {zone}",
            NamedObject(Description("star", colour="red", size="small", position="left")),
            "the star that is small and red and on the left side",
        ),
        ("{noun} {short_spot}", NamedObject(Description("star", position="top")), "star at top"),
        ("of the {nouns} the {end}", Extreme(STAR, "upper"), "of the small red stars the upper"),
        ("the {new_end} {noun}", Extreme(STAR, "upper"), "the higher small red star"),
        ("the {new_end} {noun}", Extreme(STAR, "top"), "the uppermost small red star"),
        ("of {number} {nouns} the {end}", Extreme(STAR, "left", "two"), "of two small red stars the left"),
        (
            "number {count} of the {nouns} from the {side}",
            Ordinal(STAR, "third", "left"),
            "number three of the small red stars from the left",
        ),
        (
            "{plain_relation} the {anchor} the {noun}",
            NamedObject(STAR, RING),
            "on the left of the plain ring the small red star",
        ),
        (
            "{noun} with the {anchor} {plain_converse}",
            NamedObject(STAR, RING),
            "small red star with the plain ring on the right",
        ),
        (
            "{noun} that has the {anchor} {new_converse}",
            NamedObject(STAR, RING),
            "small red star that has the plain ring on its right",
        ),
    ],
)
def test_a_form_says_the_reference(form: str, reference: Reference, text: str) -> None:
    assert first_of(form, reference) == text


def test_what_the_reference_does_not_state_has_no_slot() -> None:
    bare = slots_of(NamedObject(Description("star")), lambda word: word, is_thing_enough=False)
    assert not bare.keys() & {"swapped", "trailing", "both", "clause", "part", "colour", "thing", "zone", "anchor"}
    assert not slots_of(Extreme(STAR, "middle"), lambda word: word, is_thing_enough=False).keys() & {"most", "far"}


def test_every_form_of_an_utterance_has_both_registers() -> None:
    assert FAMILIAR_FORMS.keys() == NEW_FORMS.keys()
    assert FAMILIAR_FORMS.keys() == {"attribute", "third", "extreme", "of", "ordinal", "relation"}
