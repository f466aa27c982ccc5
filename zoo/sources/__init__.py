"""Where the images come from: one module a format on disk, and ``places``, which finds the files."""
