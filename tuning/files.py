"""Names of what a study and branching leave in their folders. Whoever only looks at folders, as the service does, imports no more than this."""

from collections.abc import Sequence

STUDY, SWEEP_OF_STUDY = "study.json", "sweep"
"""The file that tells a study's folder, and the folder in it that holds the sweep."""
PROFILE, REFERENCE = "profile.json", "reference"
"""The step times of its recipe, and the run of it as it was."""

REPORT_NUMBERS = "report.json"
"""In the folder of its report: every number, the answer's card among them."""

BRANCHES = "branches"
"""The folder in the run's."""
BRANCH_LEDGER, BRANCH_ANSWER, GROWN_RECIPE = "branches.jsonl", "answer.json", "grown.yaml"
"""What came of each branch, what they say together, and the run's recipe with the batch that they allow."""


def told_apart(names: Sequence[str]) -> list[str]:
    """Names of runs without the words that all of them begin with: `...210404-5b8e` of `digits-20260101-210404-5b8e`; the same where they are one."""
    words = [name.split("-") for name in names]
    num_shared = next((number for number, those in enumerate(zip(*words, strict=False)) if len(set(those)) > 1), 0)
    return [f"{'…' if num_shared else ''}{'-'.join(own[num_shared:])}" for own in words]
