"""Builds models, and finds, verifies and loads their weights."""
