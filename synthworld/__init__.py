"""A synthetic world whose truth is known: scenes, captions, an oracle, and the recipe of the tiny models."""
