"""Studies as jobs: what is asked for, what its command is given, how far it is, and what it says; and a sweep that waits."""

import html
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
import yaml
from command_line import largebatch
from servers import NO_TLS, Service, serving
from sweep_folders import write_sweep

from largebatch.jobs.errors import InputError
from largebatch.jobs.spec.read import read_spec
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.service.api.forms.fields import Here
from largebatch.service.api.forms.run_form import answer_as_typed, run_submission
from largebatch.service.api.requests import RunSubmit, StudySubmit, job_of_run, job_of_study
from largebatch.service.backends.base import job_arguments, prepare
from largebatch.service.job import Job, Kind, State
from largebatch.service.present.commands import as_a_service_says_it
from largebatch.service.present.next_steps import next_steps
from largebatch.service.present.progress import final_progress, read_progress
from largebatch.service.settings import Settings
from largebatch.tuning.sweep.ledger import begin_sweep
from largebatch.tuning.sweep.space import with_fields
from largebatch.tuning.sweep.spec import SweepSpec

OPTIONS = ("--max-running-per-owner", "0")
"""The service begins nothing: what these studies did is written here."""


def study(**asked: Any) -> Job:
    return job_of_study(StudySubmit.model_validate({"recipe": "digits-small-batch", **asked}), "ann", Settings(cpus=2.0))


@pytest.mark.parametrize(
    ("asked", "field", "words"),
    [
        ({"recipe": "digits-lamb"}, "stop.target", "a study compares times to it"),
        ({"budget_s": 5.0}, "budget_s", "hold no study"),
        ({"optimizers": ["sgd", "lamp"]}, "optimizers", "'lamp' is no optimizer"),
        ({"workers": "2"}, "workers", "is for runs"),
        ({"cpus": 0.25}, "cpus", "2 processes"),
    ],
)
def test_what_cannot_be_studied_is_refused_by_its_field(asked: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(InputError) as refused:
        study(**asked)
    assert refused.value.field == field
    assert words in str(refused.value)


def test_a_cluster_studies_nothing() -> None:
    with pytest.raises(InputError, match="jobs run on a Ray cluster"):
        job_of_study(StudySubmit(recipe="digits-small-batch"), "ann", Settings(ray_address="http://127.0.0.1:1"))


def test_its_command_finds_what_it_is_to_do(tmp_path: Path) -> None:
    job = study(budget_s=60.0, optimizers=["sgd", "lamb"], set={"stop.epochs": 7})
    for _ in range(2):  # a service that was killed does it again
        prepare(job, tmp_path)
    begun = json.loads((tmp_path / job.id / "study.json").read_text())
    assert (begun["budget_s"], begun["optimizers"], begun["spec"]["stop"]["epochs"]) == (60.0, ["sgd", "lamb"], 7)
    arguments = job_arguments(job, tmp_path, Path("data"))
    assert arguments == ["-m", "largebatch", "study", "--resume", f"{tmp_path}/{job.id}", "--data-dir", "data", "--device", "auto"]
    command = next_steps(job).submit_command
    assert command.startswith("largebatch remote submit digits-small-batch --budget 60s --optimizers sgd,lamb --study")
    assert "--set stop.epochs=7" in command


def test_how_far_it_is_follows_from_its_folder(tmp_path: Path) -> None:
    job = study()
    prepare(job, tmp_path)
    folder = tmp_path / job.id

    def stage() -> Any:
        return read_progress(job, folder)["stage_name"]

    assert stage() == "profile"
    (folder / "profile.json").touch()
    assert stage() == "reference run and prediction"
    (folder / "sized-sweep.json").touch()
    assert stage() == "sweep"
    sweep = SweepSpec.model_validate({"recipe": "digits-small-batch", "each": {"batch.global_batch_size": [16, 64]}, "repeats": 1})
    begin_sweep(folder / "sweep", sweep, read_spec("digits-small-batch"))
    assert read_progress(job, folder)["total_runs"] == 2
    (folder / "solution-batch-16").mkdir()
    assert stage() == "solutions and their sharpness"
    (folder / "sharpness.json").touch()
    assert stage() == "report"
    assert "answer" not in final_progress(job, folder)
    (folder / "sweep" / "report").mkdir()
    (folder / "sweep" / "report" / "report.json").write_text(json.dumps({"card": {"title": "Batch 64 with lamb"}}))
    assert final_progress(job, folder)["answer"] == "Batch 64 with lamb", "which its list shows"
    for unlike in ("{}", '{"card": null}', "[1]", "", "{"):
        (folder / "sweep" / "report" / "report.json").write_text(unlike)
        assert "answer" not in final_progress(job, folder)


def test_the_list_shows_the_answer_of_each(service: Service) -> None:
    job = study()
    service.put(job.model_copy(update={"state": State.SUCCEEDED, "attempt": 1, "progress": {"runs": 4, "answer": "Batch 64 with <lamb>"}}))
    page = httpx.get(f"{service.url}/studies").text
    assert "Batch 64 with &lt;lamb&gt;" in page
    assert ">Answer<" in page


def test_a_study_that_had_too_little_time_says_how_much_is_enough() -> None:
    own = "InputError: --budget: 12 s hold no sweep of this recipe. Use --budget 2m --resume it-v1.5-2026: what was measured is kept."
    refused = as_a_service_says_it("it", own)
    assert refused == "InputError: --budget: 12 s hold no sweep of this recipe. Use: largebatch remote resume it --budget 2m."
    (remedy,) = next_steps(study(budget_s=12.0).model_copy(update={"state": State.FAILED, "reason": refused})).remedies
    assert (remedy.set, remedy.resumes) == ({"budget_s": 120.0}, True)
    assert remedy.text == "Give it 2 min in all, and let it go on from what it has measured."
    (other,) = next_steps(study().model_copy(update={"state": State.FAILED, "reason": "the disk is full."})).remedies
    assert "submit it again, or resume it" in other.text
    assert next_steps(study().model_copy(update={"state": State.SUCCEEDED})).remedies == []


def test_a_study_goes_on_with_more_time_until_its_sweep_is_sized(service: Service) -> None:
    failed = {
        "owner": "local",
        "state": State.FAILED,
        "reason": "InputError: --budget: 12 s hold none. Use: largebatch remote resume it --budget 7m.",
    }
    job = study(budget_s=12.0).model_copy(update=failed)
    prepare(job, service.runs_dir)
    service.put(job)
    begun = service.runs_dir / job.id / "study.json"
    with httpx.Client(base_url=service.url, timeout=60, verify=NO_TLS) as http:
        refused = http.post(f"/v1/studies/{job.id}/resume", json={"budget_s": 3.0})
        assert (refused.status_code, refused.json()["field"], "hold no study" in refused.text) == (422, "budget_s", True)
        page = http.get(f"/studies/{job.id}", headers={"Accept": "text/html"}).text
        assert (page.count("12 s hold none"), 'name="budget" value="7"' in page) == (1, True)
        for typed, words in (("0.01", "hold no study"), ("soon", "must be a number")):
            refused = http.post(f"/studies/{job.id}/resume", data={"budget": typed})
            assert (refused.status_code, words in refused.text) == (422, True), refused.text
        assert http.post(f"/studies/{job.id}/resume", data={"budget": "7"}).status_code == 303
        assert json.loads(begun.read_text())["budget_s"] == http.get(f"/v1/studies/{job.id}").json()["spec"]["budget_s"] == 420.0
        assert http.post(f"/v1/studies/{job.id}/resume", json={"budget_s": 600.0}).status_code == 409, "it waits"
        assert json.loads(begun.read_text())["budget_s"] == 420.0
        http.post(f"/v1/studies/{job.id}/cancel")
        assert "queued" in largebatch("remote", "resume", job.id, "--budget", "10m", "--server", service.url).stdout
        assert json.loads(begun.read_text())["budget_s"] == 600.0
        http.post(f"/v1/studies/{job.id}/cancel")
        (begun.parent / "sized-sweep.json").touch()
        refused = http.post(f"/v1/studies/{job.id}/resume", json={"budget_s": 900.0})
        assert (refused.status_code, "sized to its budget already" in refused.text) == (422, True)
        assert http.post(f"/v1/studies/{job.id}/resume").status_code == 202


def test_what_the_network_sees_of_a_study(service: Service) -> None:
    with httpx.Client(base_url=service.url, timeout=60) as http:
        accepted = http.post("/v1/studies", json={"recipe": "digits-small-batch", "budget_s": 600})
        assert accepted.status_code == 202, accepted.text
        assert accepted.headers["Location"] == f"/v1/studies/{accepted.json()['id']}"
        plan = http.post("/v1/studies/plan", json={"recipe": "digits-small-batch", "optimizers": ["sgd", "lamb"]}).json()
        assert plan["lines"][0]["how"].startswith("30 minutes for a profile")
        job = study(budget_s=600.0).model_copy(update={"owner": "local", "state": State.SUCCEEDED, "attempt": 1})
        prepare(job, service.runs_dir)
        write_sweep(service.runs_dir / job.id / "sweep", job.base)
        service.put(job)
        path = f"/v1/studies/{job.id}"
        assert [one["id"] for one in http.get("/v1/studies").json()["items"]].count(job.id) == 1
        records = http.get(f"{path}/records").json()["items"]
        assert [record["state"] for record in records] == ["ended", "ended", "ended", "pruned"]
        assert "3 runs of 2 batch sizes" in " ".join(http.get(f"{path}/findings").json()["words"])
        assert {one["question"] for one in http.get(f"{path}/advice").json()["advice"]} >= {"soonest", "cheapest"}
        assert http.get(f"{path}/frontier").json()["cost_frontier"]
        figures = {figure["name"]: figure["figure"] for figure in http.get(f"{path}/figures").json()}
        assert [line["name"] for line in figures["rates"]["data"]] == ["batch 32", "batch 64"]
        assert figures["rates"]["data"][1]["marker"]["symbol"] == ["circle", "circle-open"]
        names = figures["parallel"]["layout"]["xaxis"]["ticktext"]
        assert {names[line["x"][-2]] for line in figures["parallel"]["data"]} == {"score"}
        assert http.get(f"{path}/runs/run-0/series").json()["evaluations"][0]["score"] == 0.95
        assert http.get(f"{path}/runs/..%2F..%2Fx/series").status_code == 404
        assert "it is a study" in http.get(f"/v1/runs/{job.id}").json()["detail"]
        for page in (f"/studies/{job.id}", f"/studies/{job.id}/runs/run-0", f"/studies/{job.id}/parts/answer", "/studies", "/studies/new"):
            assert http.get(page, headers={"Accept": "text/html"}).status_code == 200, page
        again = http.get(f"/studies/new?like={job.id}&budget_s=10", headers={"Accept": "text/html"})
        assert 'name="budget_s" value="10"' in again.text
        sent = http.post("/studies/new", data={"recipe": "digits-small-batch", "budget_s": "0.05", "do": "start"})
        assert (sent.status_code, "hold no study" in sent.text) == (422, True)
        sent = http.post("/studies/new", data={"recipe": "digits-small-batch", "budget_s": "10", "optimizers": "sgd, lamb", "do": "start"})
        asked = http.get(f"/v1{sent.headers['Location']}").json()["spec"]
        assert (sent.status_code, asked) == (303, {"budget_s": 600.0, "optimizers": ["sgd", "lamb"]})
        assert accepted.json()["kind"] == Kind.STUDY


@pytest.mark.parametrize("is_own", [False, True], ids=["of a recipe", "of a file"])
@pytest.mark.parametrize("optimizer", ["sgd", "lamb"])
def test_an_answers_recipe_is_typed_whole_into_the_form_of_a_run(is_own: bool, optimizer: str) -> None:
    """Under another optimizer, too, whose options are not those of the study's recipe."""
    base = read_spec("digits-small-batch", ["optimizer.momentum=0.8", "optimizer.weight_decay=0.01", "stop.epochs=7"])
    asked: dict[str, Any] = {"recipe": None, "spec": base.model_dump(mode="json", exclude_defaults=True)}
    job = study(**(asked if is_own else {"set": {"optimizer.momentum": 0.8, "optimizer.weight_decay": 0.01, "stop.epochs": 7}}))
    chosen = {"batch.global_batch_size": 64, "optimizer.name": optimizer, "learning_rate.base": 0.025, "learning_rate.scaling": "none"}
    wanted = with_fields(TrainSpec.model_validate(job.base), chosen)
    card = {**wanted.model_dump(mode="json", exclude_defaults=True), "optimizer": wanted.optimizer.model_dump(mode="json")}
    typed = answer_as_typed(job, yaml.safe_dump({**card, "description": "Batch 64 with sgd: 1 s."}))
    assert ("like" in typed) is is_own
    here = Here(lambda job_id: job.model_copy(update={"spec": job.base}), Settings(cpus=2.0))
    asked_for = RunSubmit.model_validate(run_submission(typed, here))
    assert TrainSpec.model_validate(job_of_run(asked_for, "ann", Settings(cpus=2.0)).spec) == wanted


def test_an_answer_leads_to_the_form_of_its_run(service: Service) -> None:
    job = study(budget_s=600.0).model_copy(update={"owner": "local", "state": State.SUCCEEDED, "attempt": 1})
    prepare(job, service.runs_dir)
    write_sweep(service.runs_dir / job.id / "sweep", job.base)
    service.put(job)
    with httpx.Client(base_url=service.url, timeout=60, headers={"Accept": "text/html"}) as http:
        card = http.get(f"/studies/{job.id}/parts/answer").text
        (address,) = re.findall(r'<a class="here" href="([^"]+)">Run it here</a>', card)
        form = http.get(html.unescape(address))
        assert (form.status_code, 'name="batch.global_batch_size" value="64"' in form.text) == (200, True)
        typed = dict(parse_qsl(urlsplit(html.unescape(address)).query))
        sent = http.post("/runs/new", data={**typed, "do": "start"})
        assert sent.status_code == 303, sent.text
        run = http.get(f"/v1{sent.headers['Location']}").json()
        assert (run["recipe"], run["spec"]["batch"]["global_batch_size"], run["spec"]["learning_rate"]["base"]) == ("digits-small-batch", 64, 0.1)
        assert http.get(f"/runs/new?like={job.id}").status_code == 200, "a run may begin from a study"


def test_what_a_sweep_has_not_yet_is_no_missing_page(service: Service) -> None:
    """It waits for its turn."""
    with httpx.Client(base_url=service.url, timeout=60) as http:
        sweep = {"recipe": "digits-small-batch", "each": {"batch.global_batch_size": [32, 64]}}
        job_id = http.post("/v1/sweeps", json={"sweep": sweep}).json()["id"]
        for what, words in (("report", "this sweep has no report yet"), ("findings", "no run that has ended"), ("advice", "no run that has ended")):
            answer = http.get(f"/v1/sweeps/{job_id}/{what}")
            assert answer.status_code == 409, answer.text
            assert words in answer.json()["detail"]
            assert "the sweep goes on" not in answer.text, "it waits"


@pytest.mark.slow
def test_a_study_is_carried_out(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        job_id = httpx.post(f"{service.url}/v1/studies", json={"recipe": "digits-small-batch", "budget_s": 60, "set": {"stop.epochs": 8}}).json()[
            "id"
        ]
        job = service.wait(job_id, "succeeded", "failed", seconds=900, kind="study")
        assert job["state"] == "succeeded", job
        assert job["progress"]["answer"].startswith("Batch "), job
        assert "soonest" in " ".join(httpx.get(f"{service.url}/v1/studies/{job_id}/findings", timeout=60).json()["words"])
        assert httpx.get(f"{service.url}/v1/studies/{job_id}/report").status_code == 200
