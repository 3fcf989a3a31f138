"""What changes under the mirror: a run that is resumed otherwise than it began, and an MLflow in which somebody deletes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_runs
from made_records import drop_end

from largebatch.jobs.errors import DataError
from largebatch.jobs.run.checkpoints import list_checkpoints
from largebatch.jobs.run.journal import read_records, steps
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.tracking.folder_mirror import sync_folder
from largebatch.jobs.tracking.follower import follow
from largebatch.jobs.tracking.mirror_state import MirrorState
from largebatch.jobs.tracking.mlflow_mirror import sync_run
from largebatch.jobs.tracking.mlflow_store import DeletedError, sqlite_database, sqlite_uri
from largebatch.jobs.tracking.params import as_resumed


def document(store: str, experiment: str, **parts: Any) -> dict[str, Any]:
    return small_runs.document(**parts, tracking={"mlflow_uri": store, "experiment": experiment, "system_metrics": False})


def trained(given: dict[str, Any], run_dir: Path) -> None:
    small_runs.trained(small_runs.prepared(**given), run_dir, resumes=bool(list_checkpoints(run_dir / "checkpoints")))


def last_values(client: Any, run_dir: Path) -> dict[str, float]:
    return client.get_run(MirrorState.read(run_dir).run_id).data.metrics


def test_mlflow_shows_a_short_runs_last_step_after_each_of_its_starts(tmp_path: Path, client: Any, store: str) -> None:
    """All steps fit into one `step_every_seconds`; a second start goes on, a third is killed."""
    run_dir = tmp_path / "short"
    for num_steps in (5, 8, 11):
        trained(document(store, "last steps", stop={"steps": num_steps}), run_dir)
        if num_steps == 11:
            journal = run_dir / "records.jsonl"
            journal.write_text("".join(line for line in journal.read_text().splitlines(keepends=True) if '"steps":11' not in line))
        sync_run(run_dir)
        last = list(steps(read_records(run_dir)))[-1]
        values = last_values(client, run_dir)
        assert {name: values[name] for name in ("loss", "samples_seen", "epoch", "learning_rate")} == {
            "loss": last.loss, "samples_seen": 16 * num_steps, "epoch": num_steps / 4, "learning_rate": last.learning_rate
        }  # fmt: skip
        assert values["training_seconds"] == pytest.approx(last.training_seconds)


def test_a_resume_that_changes_the_spec_changes_what_mlflow_tells_of_it(tmp_path: Path, client: Any, store: str) -> None:
    run_dir = tmp_path / "resumed"
    seen = []
    for stop in ({"epochs": 1.0}, {"epochs": 2.0}, {"steps": 12, "target_accuracy": 0.9999}, {"steps": 13, "epochs": None}):
        trained(document(store, "resumed", stop=stop), run_dir)
        sync_run(run_dir)
        run = client.get_run(MirrorState.read(run_dir).run_id)
        told = as_resumed(run.data.params, run.data.tags)
        seen.append({name: told.get(f"stop.{name}") for name in ("epochs", "steps", "target_accuracy")})
        (spec,) = [file for file in client.list_artifacts(run.info.run_id) if file.path == "spec.json"]
        assert json.loads(Path(client.download_artifacts(run.info.run_id, spec.path)).read_text())["stop"]["steps"] == stop.get("steps")
    assert seen == [
        {"epochs": "1.0", "steps": None, "target_accuracy": None},
        {"epochs": "2.0", "steps": None, "target_accuracy": None},
        {"epochs": None, "steps": "12", "target_accuracy": "0.9999"},
        {"epochs": None, "steps": "13", "target_accuracy": None},
    ]
    assert run.data.params["stop.epochs"] == "1.0", "MLflow's parameters cannot change"
    assert {name: value for name, value in run.data.tags.items() if name.startswith("resumed.")} == {
        "resumed.stop.epochs": "null", "resumed.stop.steps": "13", "resumed.stop.target_accuracy": "null"
    }  # fmt: skip
    assert "stop.steps 13" in run.data.tags["mlflow.note.content"]


def test_what_a_resume_takes_back_is_told_no_longer_and_a_persons_words_stay(tmp_path: Path, client: Any, store: str) -> None:
    run_dir = tmp_path / "taken-back"
    for every in (1.0, 2.0, 1.0):
        trained(document(store, "taken back", evaluation={"every_epochs": every}), run_dir)
        run_id = sync_run(run_dir).run_id
        client.set_tag(run_id, "mlflow.note.content", "my own words")
    tags = client.get_run(run_id).data.tags
    assert not [name for name in tags if name.startswith("resumed.")]
    assert tags["mlflow.note.content"] == "my own words"


def test_steps_that_a_resume_undid_are_told_and_the_final_values_are_the_runs_own(tmp_path: Path, client: Any, store: str) -> None:
    """MLflow deletes no metric, and shows of each the value at its highest step."""
    run_dir = tmp_path / "undone"
    trained(document(store, "undone", stop={"steps": 12}, checkpoint={"every_steps": 4}, evaluation={"every_epochs": 1.0}), run_dir)
    drop_end(run_dir)
    sync_run(run_dir)
    for checkpoint in list_checkpoints(run_dir / "checkpoints"):  # as after a kill at step 12, which was to be the 40th
        if checkpoint.step > 8:
            shutil.rmtree(checkpoint.path) if checkpoint.path.is_dir() else checkpoint.path.unlink()
    seen = []
    for num_steps in (9, 15):
        trained(document(store, "undone", stop={"steps": num_steps}), run_dir)
        run = client.get_run(sync_run(run_dir).run_id)
        summary = json.loads((run_dir / "summary.json").read_text())
        for name in ("steps", "epochs", "samples_seen", "training_seconds"):
            assert run.data.metrics[f"final_{name}"] == pytest.approx(summary[name])
        assert run.data.metrics["final_test_accuracy"] == pytest.approx(summary["score"])
        tags = run.data.tags
        seen.append(
            (tags.get("largebatch.superseded_from_step"), "Undone: steps from 10 on" in tags["mlflow.note.content"], run.data.metrics["samples_seen"])
        )
        assert "Resumed with stop.steps" in tags["mlflow.note.content"]
    assert seen == [("10", True, 192), (None, False, 240)]


def test_a_failed_run_has_its_reason_and_goes_on(tmp_path: Path, client: Any, store: str) -> None:
    def fail() -> bool:
        raise DataError("sample 7", "cannot be read.")

    run_dir = tmp_path / "failed"
    with pytest.raises(DataError):
        small_runs.trained(small_runs.prepared(**document(store, "failed")), run_dir, Listener(should_stop=fail))
    run = client.get_run(sync_run(run_dir).run_id)
    assert (run.info.status, run.data.tags["largebatch.outcome"]) == ("FAILED", "failed")
    assert run.data.tags["largebatch.failure"] == "sample 7: cannot be read."
    trained(document(store, "failed"), run_dir)
    run = client.get_run(sync_run(run_dir).run_id)
    assert (run.info.status, run.data.tags["largebatch.outcome"], run.data.metrics["samples_seen"]) == ("FINISHED", "completed", 128)
    assert "largebatch.failure" not in run.data.tags, "it was mended"


def delete_experiment(client: Any, run_id: str) -> Callable[[], None]:
    number = client.get_run(run_id).info.experiment_id
    client.delete_experiment(number)
    return lambda: client.restore_experiment(number)


def delete_run(client: Any, run_id: str) -> Callable[[], None]:
    client.delete_run(run_id)
    return lambda: client.restore_run(run_id)


@pytest.mark.parametrize("delete", [delete_experiment, delete_run])
@pytest.mark.parametrize("has_news", [True, False], ids=["resumed", "complete"])
def test_what_was_deleted_in_mlflow_is_told_and_works_again_once_restored(
    delete: Callable[[Any, str], Callable[[], None]], has_news: bool, tmp_path: Path, client: Any, store: str
) -> None:
    run_dir, experiment = tmp_path / "deleted", f"deleted {delete.__name__} {has_news}"
    trained(document(store, experiment), run_dir)
    run_id = sync_run(run_dir).run_id
    restore = delete(client, run_id)
    if has_news:
        trained(document(store, experiment, stop={"steps": 9}), run_dir)
    what = "experiment" if delete is delete_experiment else "run"
    with pytest.raises(DeletedError, match=f"^tracking.*: {what} .* is deleted in MLflow at .* mlflow {what}s restore") as told:
        sync_run(run_dir)
    assert "\n" not in str(told.value)
    restore()
    assert sync_run(run_dir).run_id == run_id
    assert last_values(client, run_dir)["samples_seen"] == 16 * (9 if has_news else 8)


def test_a_deleted_experiment_is_said_once_however_often_it_is_tried(
    tmp_path: Path, client: Any, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    client.delete_experiment(client.create_experiment("thrown away"))
    run_dir = tmp_path / "unmirrored"
    trained(document(store, "thrown away"), run_dir)
    capsys.readouterr()
    looks = iter([False, False, True])  # standard input ends at the third look
    follow(run_dir, lambda seconds: next(looks))
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2
    assert "experiment 'thrown away' is deleted" in said[0]
    assert "set tracking.experiment to another one" in said[0]
    assert said[0].endswith("Training goes on; the journal keeps everything.")
    assert said[1] == f"MLflow is behind: once that is mended, `largebatch sync {run_dir}` brings it up to date."


def test_another_experiment_and_a_run_that_is_gone_for_good_begin_anew_with_the_whole_story(tmp_path: Path, client: Any, store: str) -> None:
    run_dir = tmp_path / "anew"
    trained(document(store, "first"), run_dir)
    first = sync_run(run_dir).run_id
    client.delete_experiment(client.get_run(first).info.experiment_id)
    trained(document(store, "second", stop={"steps": 9}), run_dir)
    second = sync_run(run_dir).run_id
    assert second != first
    assert client.get_experiment(client.get_run(second).info.experiment_id).name == "second"
    state = MirrorState.read(run_dir)
    state.run_id = "0" * 32  # as after `mlflow gc`
    state.write(run_dir)
    assert sync_run(run_dir).run_id == second, "found by its identity"
    assert last_values(client, run_dir)["samples_seen"] == 144


def test_a_deleted_run_of_a_sweep_keeps_no_other_from_mlflow(tmp_path: Path, client: Any, store: str) -> None:
    folder = tmp_path / "sweep"
    for number in range(2):
        trained(document(store, "sweeps", stop={"steps": 2}), folder / f"{number}")
    (folder / "parent.json").write_text(json.dumps({"mlflow_uri": store, "experiment": "sweeps", "began_at_s": 1.0}))
    sync_folder(folder)
    client.delete_run(MirrorState.read(folder / "0").run_id)
    trained(document(store, "sweeps", stop={"steps": 3}), folder / "1")
    with pytest.raises(DeletedError, match="mlflow runs restore"):
        sync_folder(folder)
    assert last_values(client, folder / "1")["samples_seen"] == 48


@pytest.mark.parametrize("name", ["plain", "a b", "50%", "a%20b", "a?b=c", "a#b", "é中", "a&b;c'd"])
def test_any_folder_may_hold_the_runs_and_their_store(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's own reading of the address leads to the same file."""
    from sqlalchemy import create_engine, text

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    database = tmp_path / name / "mlflow.db"
    database.parent.mkdir()
    uri = sqlite_uri(database)
    assert sqlite_database(uri) == database
    engine = create_engine(uri)
    with engine.connect() as connection:
        connection.execute(text("create table t (x int)"))
        connection.commit()
    engine.dispose()
    assert database.is_file()


def test_a_run_below_a_folder_of_odd_name_is_mirrored_with_its_artifacts(store: str, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store that the other tests name lies in such a folder; this run finds it as the one beside itself."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = sqlite_database(store)
    run_dir = folder.parent / "run % é"
    given = document("", "odd")
    given["tracking"]["mlflow_uri"] = None
    trained(given, run_dir)
    state = sync_run(run_dir)
    assert state.uri == store
    assert last_values(client, run_dir)["samples_seen"] == 128
    assert (run_dir.parent / "mlflow-artifacts" / str(state.run_id) / "artifacts" / "spec.json").is_file()
