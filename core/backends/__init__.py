"""Back ends with a file of their own: each is a line in `core.backend.BACKENDS`, imported when first asked for."""
