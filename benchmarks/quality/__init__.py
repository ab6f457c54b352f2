"""How good the annotation is, held against known truth: every figure of docs/quality.md, a part a module."""
