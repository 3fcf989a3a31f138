"""`report.json` has a schema with a version, and every report keeps to it."""

import json
from pathlib import Path

import jsonschema
import pytest
from command_line import largebatch
from made_runs import made_profile, made_run

from largebatch.tuning.report.contents import Extras
from largebatch.tuning.report.report import write_report, write_report_of_nothing
from largebatch.tuning.report.schema import ReportNumbers, command_line
from largebatch.tuning.results.analysis.prediction import Miss, Predicted
from largebatch.tuning.results.findings import find

VERSION_1 = {
    "schema_version", "origin", "card", "words", "setting", "headline", "target", "target_is_chosen", "tokens_per_sample", "num_runs", "seeds",
    "clock", "batches", "by_optimizer", "cost_frontier", "score_frontier", "critical_batch", "gradient_noise_scale", "advice", "growing",
    "left_out", "failed",
    "profile", "predicted", "prediction_errors", "tables",
}  # fmt: skip
"""Fields that programs may rely on; one that goes takes the version with it."""


def test_a_report_keeps_to_the_schema_that_the_command_prints(tmp_path: Path) -> None:
    schema = json.loads(largebatch("report", "--schema").stdout)
    extras = Extras(made_profile(), [Predicted(32, 1.0, 1.0, 1.0, 0.1)], [Miss(32, 1.3, 1.0)], tables=[("More", [{"what": "1"}])])
    write_report(tmp_path / "reached", find([made_run(batch, seed) for batch in (32, 128, 512) for seed in range(2)]), extras)
    write_report(tmp_path / "missed", find([made_run(32, reaches=False)]))
    write_report_of_nothing(tmp_path / "nothing", ["Wait."])
    for name in ("reached", "missed", "nothing"):
        numbers = json.loads((tmp_path / name / "report.json").read_text())
        jsonschema.validate(numbers, schema)
        assert numbers["schema_version"] == 1
        if name != "nothing":
            assert numbers.keys() == VERSION_1
            read = ReportNumbers.model_validate(numbers)
            assert json.loads(read.model_dump_json()) == numbers


def test_the_schema_says_what_each_field_is() -> None:
    schema = json.loads(largebatch("report", "--schema").stdout)
    card = schema["$defs"]["Card"]["properties"]
    assert card["recipe"]["description"].startswith("None of runs that another program trained")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["/bin/largebatch", "report", "of mine"], "largebatch report 'of mine'"),
        (["/x/largebatch/service/cli/__main__.py", "study", "r"], "largebatch study r"),
        (["largebatch", "report", "--mlflow-uri", "http://me:secret@host/x"], "largebatch report --mlflow-uri 'http://***@host/x'"),
    ],
)
def test_the_foot_names_the_command_without_passwords(words: list[str], told: str) -> None:
    assert command_line(words) == told
