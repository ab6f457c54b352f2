"""Confidence on fresh scenes: weights fitted on development scenes, the gain over CLIP's filter told on test scenes."""
