"""The body that the API answers with, and `report.json` and `--json` hold, is the one that it always was."""

import json
from pathlib import Path
from typing import Any

import pytest
from made_runs import made_run

from largebatch.tuning.results.findings import find
from largebatch.tuning.results.wording import answer_of

GOLDEN = json.loads((Path(__file__).parent / "golden" / "sweep-findings.json").read_text())
RUNS = {
    "reached": [*(made_run(batch, seed, 1 + 0.05 * seed) for batch in (32, 128, 512, 2048) for seed in range(3)), made_run(64, device="H200")],
    "missed": [made_run(batch, reaches=False) for batch in (32, 128)],
}


def rounded(text: str) -> Any:
    """Numbers to six digits: the last ones are the platform's."""
    return json.loads(text, parse_float=lambda number: float(f"{float(number):.6g}"))


@pytest.mark.parametrize("name", RUNS)
def test_the_body_is_the_one_of_before(name: str) -> None:
    answer = answer_of(find(RUNS[name]))
    assert rounded(answer.model_dump_json()) == GOLDEN[name]
    numbers = {field: value for field, value in GOLDEN[name].items() if field not in {"rows", "figures"}}
    assert rounded(json.dumps(answer.numbers())) == numbers
