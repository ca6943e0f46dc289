"""History and instruction in, next actions out."""
