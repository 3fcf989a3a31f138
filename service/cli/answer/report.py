"""Writes the report of runs: `largebatch report`."""

from pathlib import Path

from largebatch.jobs.run.run_folder import refuse_unwritable
from largebatch.service.cli.answer.runs import compare_prediction, find_in, gather
from largebatch.service.cli.checks import refuse_unless_positive
from largebatch.service.cli.options import RunsToRead
from largebatch.tuning.report.contents import Extras
from largebatch.tuning.report.report import NOTHING, write_report, write_report_of_nothing
from largebatch.tuning.results.analysis.prediction import misses_in_words
from largebatch.tuning.results.findings import NothingEndedError
from largebatch.tuning.results.wording import answer_of


def report(runs: RunsToRead, output: Path) -> None:
    """Write the report into a folder, and print what it says."""
    refuse_unless_positive("--target", runs.target)
    refuse_unwritable(output, "--output")
    try:
        findings = find_in(gather(runs), runs.target)
    except NothingEndedError as nothing:
        page = write_report_of_nothing(output, nothing.missing)
        print("\n".join([NOTHING, *nothing.missing, f"Report: {page.resolve()}"]))
        return
    comparison = compare_prediction(findings, runs)
    words = [misses_in_words(comparison.misses)] if comparison.misses else []
    extras = Extras(comparison.profile, comparison.predicted, comparison.misses, words=[*words, *comparison.notes])
    page = write_report(output, findings, extras)
    for line in [*answer_of(findings).words, *extras.words]:
        print(line)
    print(f"Report: {page.resolve()}")
