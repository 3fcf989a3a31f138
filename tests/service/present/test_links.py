"""Links lead only where an operator said, and a browser can go; never where a request or a job wants."""

import json
from pathlib import Path

import pytest

from largebatch.jobs.errors import InputError
from largebatch.jobs.run.run_folder import MLFLOW
from largebatch.service.job import Job, Kind
from largebatch.service.present.views import details, public, refuse_unless_public
from largebatch.service.settings import Settings

JOB = Job(id="run-a", kind=Kind.RUN, owner="ann", name="a", recipe=None, cpus=1.0, gpus=0, created_at_s=0.0, attempt=2)
HOSTILE = [
    "javascript:alert(1)",
    "JavaScript:alert(1)//http://x",
    "data:text/html,x",
    "//evil",
    "ftp://x",
    "sqlite:///x.db",
    "http://",
    "http://x:port",
    "http://[",
    "",
]


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://mlflow:5000", "http://mlflow:5000"),
        ("https://me:hidden-7@mlflow.example/base/?token=hidden-7#x", "https://mlflow.example/base"),
        ("http://[::1]:5000/", "http://[::1]:5000"),
        *((text, None) for text in [*HOSTILE, None]),
    ],
)
def test_what_may_be_shown_of_an_address(address: str | None, shown: str | None) -> None:
    assert public(address) == shown


@pytest.mark.parametrize("text", HOSTILE)
def test_an_operator_hears_of_a_wrong_address(text: str) -> None:
    with pytest.raises(InputError, match="browser"):
        refuse_unless_public("--mlflow-url", text)


def mirrored(tmp_path: Path, **state: object) -> Path:
    (tmp_path / JOB.id).mkdir(exist_ok=True)
    (tmp_path / JOB.id / MLFLOW).write_text(json.dumps(state))
    return tmp_path


@pytest.mark.parametrize(
    ("given", "uri", "shown"),
    [
        ({"tracking_uri": "http://u:hidden-7@mlflow:5000"}, "http://u:hidden-7@mlflow:5000", "http://mlflow:5000/#/runs/0a1b"),
        ({"tracking_uri": "http://mlflow:5000", "mlflow_url": "https://ml.example"}, "http://mlflow:5000", "https://ml.example/#/runs/0a1b"),
        ({"mlflow_url": "https://ml.example"}, "sqlite:////runs/mlflow.db", "https://ml.example/#/runs/0a1b"),
        ({"tracking_uri": "http://mlflow:5000"}, "sqlite:////runs/mlflow.db", None),
        ({"tracking_uri": "sqlite:///x.db"}, "sqlite:///x.db", None),
        ({}, "http://elsewhere", None),
    ],
)
def test_a_runs_page_in_mlflow(tmp_path: Path, given: dict[str, str], uri: str, shown: str | None) -> None:
    settings = Settings(runs_dir=mirrored(tmp_path, uri=uri, run_id="0a1b"), **given)  # type: ignore[arg-type]
    assert details(JOB, settings).mlflow_url == shown


def test_what_a_job_writes_makes_no_address(tmp_path: Path) -> None:
    settings = Settings(runs_dir=tmp_path, mlflow_url="https://ml.example")
    assert details(JOB, settings).mlflow_url is None, "there is no mirror yet"
    mirrored(tmp_path, uri="http://x", run_id='"><script>/../javascript:1')
    assert details(JOB, settings).mlflow_url == "https://ml.example/#/runs/%22%3E%3Cscript%3E%2F..%2Fjavascript%3A1"
    for broken in ("{", "[]", '{"run_id": 1, "new": 2}'):
        (tmp_path / JOB.id / MLFLOW).write_text(broken)
        assert details(JOB, settings).mlflow_url is None


def test_an_attempt_on_rays_dashboard(tmp_path: Path) -> None:
    def shown(attempt: int = 2, **given: str) -> str | None:
        return details(JOB.model_copy(update={"attempt": attempt}), Settings(runs_dir=tmp_path, **given)).ray_dashboard_url  # type: ignore[arg-type]

    assert shown(ray_address="http://head:8265") == "http://head:8265/#/jobs/run-a.2"
    assert shown(ray_address="http://head:8265", ray_dashboard_url="https://ray.example/x") == "https://ray.example/x/#/jobs/run-a.2"
    assert shown(attempt=0, ray_address="http://head:8265") is None, "it has not begun"
    assert shown() is None
