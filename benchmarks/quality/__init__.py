"""How good annotation is, what a student learns from it, and what of the method earns its cost."""
