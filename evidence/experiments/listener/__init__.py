"""Confidence on fresh scenes: fitted on development scenes, compared with CLIP's filter on test scenes.

`quality/listener.py` calls `listener_gain`; `judged_scenes` also serves composing and audits.
"""
