"""From run folders or MLflow to findings."""
