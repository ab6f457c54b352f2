"""Confidence on fresh scenes: fitted on development scenes, compared with CLIP's filter on test scenes."""
