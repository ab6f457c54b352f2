"""What a vision-language model says around a caption, and is cut from it."""

from __future__ import annotations

import re
from typing import Final

# Openings that name the picture or answer the user, not the object. Tried again after each cut: "Sure! Here is a short
# phrase: ...". Articles that follow stay.
_OPENINGS: Final = (
    r"(?:sure|certainly|of course|okay|ok)[,!.:]+",
    r"(?:here is|here's) (?:a|the|your|one)(?: \w+){0,3} ?(?:caption|description|phrase|answer)(?: of [^:]{1,40})?:",
    r"(?:a |the |short )*(?:caption|description|phrase|answer|output)[^:]{0,30}:",
    r"(?:in|on) (?:the|this) (?:image|picture|photo|photograph|crop)s?"
    r"(?:,? (?:there (?:is|are)|we (?:can )?see|you (?:can )?see|one (?:can )?sees?|is|are)|,)",
    r"(?:the|this|an?) (?:main |central |provided |given |cropped )*(?:image|picture|photo|photograph|crop) "
    r"(?:shows?|depicts?|features?|contains?|displays?|presents?|captures?|portrays?|is of|is a (?:photo|picture) of)",
    r"(?:the|this) (?:main |marked |outlined |highlighted |central |pictured )*(?:object|subject|item|thing)"
    r"(?: in the (?:image|picture|photo|crop))? (?:is|appears to be|seems to be|looks like)",
    r"(?:this|that|it|there|these|those) (?:is|are|appears to be|seems to be|looks like|shows)",
    r"(?:it's|that's|there's)",
    r"(?:i|we|you|one) (?:can )?sees?",
)
_OPENING: Final = re.compile(rf"(?:{'|'.join(_OPENINGS)})(?:\s+|$)", re.IGNORECASE)
# Quotes, marks of lists, headings and emphasis, at either end.
_MARKS: Final = " \t\"'`*_#>-–—•:“”‘’«»"


def spoken_part(text: str) -> str:
    """Return the caption inside a model's answer: without openings such as "The image shows", quotes and markdown."""
    left = text.replace("**", "").strip(_MARKS)
    while (found := _OPENING.match(left)) is not None:
        left = left[found.end() :].strip(_MARKS)
    return left
