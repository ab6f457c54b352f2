"""Crops of images: which box and scale, resampled in tiles of fixed shapes, and images decoded ahead of their use.

`workers`, `training` and `evidence` call it. A crop's bits depend on nothing beside it.
"""
