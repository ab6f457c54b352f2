"""Data recipes of PPT (curriculum point prompting, sections 3.2 and 3.3): each writes a run. For `cli`, `training`.

D_sem has an object an image, and its class as text; D_ref composed images, with texts about places. H has texts of a
run: in H_sem one pseudo-mask fits the text, in H_ref several do. Every reader, `verify` and a resume take such a run.
"""
