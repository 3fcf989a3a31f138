"""Models by name, and ghost batch normalisation."""
