"""Where a job runs: in this process, and later on a Ray cluster."""
