"""Confidence on fresh scenes: fitted on development scenes, its gain over CLIP's filter told on test scenes."""
