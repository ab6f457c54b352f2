"""PPT's data recipes (sections 3.2 and 3.3): D_sem, D_ref, H_sem and H_ref as tables of the usual form, and Select."""
