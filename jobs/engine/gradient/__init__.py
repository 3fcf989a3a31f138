"""The gradient of one global batch."""
