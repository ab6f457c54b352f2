"""Composes expressions with positions, relations and numbers from the captions of an image's masks, without a model."""
