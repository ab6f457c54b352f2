"""From token sequences to candidate expressions: decoded, cleaned, equal texts of one mask merged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from schemas.shard import CaptionSample, ExpressionRecord, MaskRecord
from schemas.texts import clean_text
from workers.captions.drafts import Draft


def to_expressions(
    drafts: Iterable[Draft], masks: Sequence[MaskRecord], to_text: Callable[[Sequence[int]], str]
) -> tuple[ExpressionRecord, ...]:
    """Return the candidates ordered by mask, then by their first sample; empty captions are no candidates.

    Args:
        drafts: In the order mask, crop kind, decoder.
        masks: Of the image; a draft's `place` is its mask's here.
        to_text: From token ids without SOT and EOS to text.
    """
    samples: dict[tuple[int, str], list[CaptionSample]] = {}
    for draft in drafts:
        text = clean_text(to_text(draft.tokens))
        if text:
            samples.setdefault((draft.place, text), []).append(_sample(draft))
    return tuple(
        ExpressionRecord(target_mask_ids=(masks[place].mask_id,), text=text, samples=tuple(found))
        for (place, text), found in samples.items()
    )


def _sample(draft: Draft) -> CaptionSample:
    decoder = draft.decoder
    return CaptionSample(
        crop=draft.crop,
        decoder=decoder.name,
        top_k=decoder.top_k,
        top_p=decoder.top_p,
        log_prob=draft.log_prob,
        others=draft.others,
        num_others=draft.num_others,
        other_masks=draft.other_masks,
    )
