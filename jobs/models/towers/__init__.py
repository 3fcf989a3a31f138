"""Models of our own for contrastive tasks: what turns an image, or a text, into one embedding."""
