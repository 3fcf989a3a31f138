"""Names of what branching leaves in a run's folder."""

BRANCHES = "branches"
"""The folder in the run's."""
LEDGER, ANSWER, RECIPE = "branches.jsonl", "answer.json", "grown.yaml"
"""What came of each branch, what they say together, and the run's recipe with the batch that they allow."""
