"""Where the scene CLIP points: the response map of a caption against the mask of the object that it names."""
