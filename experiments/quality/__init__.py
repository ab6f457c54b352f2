"""How good annotation is and what a student learns from it: every figure of docs/quality.md, a part a module."""
