"""A sweep that a service carries out, on this machine or on Ray: what is told of it live, and what is there afterwards."""

from typing import Any

import httpx
from servers import Service


def carry_out(service: Service, rates: list[float]) -> str:
    """A sweep of two batch sizes, each with these rates, from its submission to its end, looked at by REST. Returns its id."""
    sweep: dict[str, Any] = {
        "recipe": "digits-small-batch",
        "set": {"stop.epochs": 3, "stop.target_accuracy": 0.8, "tracking.enabled": False},
        "each": {"batch.global_batch_size": [32, 128]},
        "search": {"method": "grid", "space": {"learning_rate.base": rates}},
        "repeats": 0,
    }
    num_runs = 2 * len(rates)
    with httpx.Client(base_url=service.url, timeout=30) as http:
        accepted = http.post("/v1/sweeps", json={"sweep": sweep, "cpus": 1.0})
        assert accepted.status_code == 202, accepted.text
        job_id = str(accepted.json()["id"])
        with http.stream("GET", f"/v1/sweeps/{job_id}/events", timeout=200) as events:
            told = "".join(events.iter_text())  # until the sweep is over
        assert told.count("event: trial\n") == num_runs
        assert told.endswith("event: over\ndata: {}\n\n")
        job = service.wait(job_id, "succeeded", "failed", kind="sweep")
        assert job["state"] == "succeeded", job["reason"]
        assert (job["progress"]["runs_over"], job["progress"]["running"]) == (num_runs, {})
        trials = http.get(f"/v1/sweeps/{job_id}/records").json()["items"]
        assert [(one["number"], one["state"], one["outcome"] in {"reached", "missed"}) for one in trials] == [
            (number, "ended", True) for number in range(num_runs)
        ]
        files = {file["path"] for file in http.get(f"/v1/sweeps/{job_id}/artifacts").json()}
        assert {f"{one['run_id']}/records.jsonl" for one in trials} <= files
        report = http.get(f"/v1/sweeps/{job_id}/report")
        assert "<html" in report.text
        assert "sandbox" in report.headers["content-security-policy"]
        return job_id
