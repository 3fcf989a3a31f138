"""The journal, which is the truth, and the MLflow mirror, which catches up with it."""
