"""A run on storage: plan, parts, receipts, commit and lock, and everything that reads what is committed.

The promises of durability live here; no torch, no Ray.
"""
