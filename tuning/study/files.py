"""What a study leaves in its folder, by name. Whoever only looks at folders, as the service does, imports no more than this."""

STUDY, SWEEP_OF_STUDY = "study.json", "sweep"
"""The file that tells a study's folder, and the folder in it that holds the sweep."""
PROFILE, REFERENCE = "profile.json", "reference"
"""The step times of its recipe, and the run of it as it was."""
