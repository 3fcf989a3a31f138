"""`import largebatch`: the public interface of a Python program."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from small_runs import document

import largebatch
from largebatch.jobs.errors import InputError, SpecError
from largebatch.jobs.run.records import Outcome, Record
from largebatch.jobs.spec.read import build_spec


def small_document(**parts: Any) -> dict[str, Any]:
    """A spec as plain data that trains on the digits in a second; `parts` replace whole sections."""
    return document(**{"name": "small", "dataset": {"name": "digits"}, "batch": {"global_batch_size": 256}, "stop": {"steps": 12}, **parts})


def test_every_public_name_is_there_and_no_other() -> None:
    for name in largebatch.__all__:
        assert getattr(largebatch, name) is not None
        assert name in dir(largebatch)
    assert not {"TYPE_CHECKING", "os", "jobs"} & set(dir(largebatch))
    with pytest.raises(AttributeError, match="module 'largebatch' has no attribute 'SGD'"):
        largebatch.SGD  # noqa: B018


@pytest.mark.parametrize("kind", ["mapping", "spec", "path", "text"])
def test_a_spec_is_trained_however_it_is_given(kind: str, tmp_path: Path) -> None:
    given = small_document(stop={"steps": 3})
    path = tmp_path / "small.json"
    path.write_text(json.dumps(given))
    spec: Any = {"mapping": given, "spec": build_spec(given), "path": path, "text": str(path)}[kind]
    records: list[Record] = []
    summary = largebatch.train(spec, output_dir=tmp_path / "runs", device="cpu", on_record=records.append)
    assert (summary.outcome, summary.steps) == (Outcome.COMPLETED, 3)
    run = largebatch.load_run(summary.run_dir)
    assert run == largebatch.load_run(Path(summary.run_dir))
    assert (run.spec, run.summary) == (build_spec(given), summary)
    assert [record.step for record in run.steps] == [1, 2, 3]
    assert [record.step for record in run.evaluations] == [3]
    assert run.evaluations[0] in records


def test_a_run_goes_on_under_its_id_in_any_thread(tmp_path: Path) -> None:
    summaries = []

    def train(steps: int) -> None:
        summaries.append(
            largebatch.train(small_document(stop={"steps": steps}), output_dir=tmp_path, device="cpu", run_id="one", should_stop=lambda: steps == 9)
        )

    for steps in (9, 2):
        thread = threading.Thread(target=train, args=(steps,))
        thread.start()
        thread.join()
    assert [(summary.outcome, summary.steps, summary.run_id) for summary in summaries] == [("stopped", 1, "one"), ("completed", 2, "one")]


def test_a_run_that_has_not_ended_has_no_summary(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(json.dumps(small_document()))
    run = largebatch.load_run(tmp_path)
    assert (run.summary, run.evaluations, run.steps) == (None, [], [])


def test_what_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="'no-recipe' is neither a file nor a recipe"):
        largebatch.train("no-recipe", output_dir=tmp_path)
    with pytest.raises(SpecError, match="is not a known key"):
        largebatch.train(small_document(sparkle=1), output_dir=tmp_path)
    with pytest.raises(InputError, match=r"is not a run's folder: it has no spec\.json"):
        largebatch.load_run(tmp_path)
    (tmp_path / "spec.json").write_text(json.dumps(small_document()))
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(InputError, match=r"summary\.json cannot be read"):
        largebatch.load_run(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"spec.json", "summary.json"}
