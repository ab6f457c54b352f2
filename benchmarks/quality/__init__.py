"""How good annotation is, held against known truth, and what a student learns from it: every figure of docs/quality.md."""
