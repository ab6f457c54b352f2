"""Composes expressions with positions, relations and numbers from the captions of an image's masks, without a model.

The filter stage and `refilter` call `composer`; `training` fits `posterior`. Equal input must give equal expressions.
"""
