"""Expressions with places, relations and numbers, composed from what was said of an image's masks; no model."""
