"""Where data sets come from: by name, from folders of images, or from a person's own code."""
