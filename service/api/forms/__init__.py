"""The forms that start runs, sweeps and studies: their fields, and from what was typed to what REST takes."""
