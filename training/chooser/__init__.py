"""The student that ships. It is called chooser: it draws no mask, but chooses one that SAM proposes for the image."""
