"""What the page of a job, and the lists, say beside its state."""

import re

import httpx
from put_jobs import put_fallen
from servers import NO_TLS, Service

OPTIONS = ("--max-running-per-owner", "0")


def page(service: Service, path: str) -> str:
    answer = httpx.get(f"{service.url}{path}", headers={"Accept": "text/html"}, verify=NO_TLS)
    assert answer.status_code == 200, answer.text
    return " ".join(answer.text.split())


def test_a_run_that_has_fallen_says_from_where(service: Service) -> None:
    job_id = put_fallen(service)
    for shown in (page(service, f"/runs/{job_id}"), page(service, f"/runs/{job_id}/parts/change")):
        assert "It fell from its best accuracy 0.9700 at step 2 to 0.2600." in shown
    for path in (f"/runs/{job_id}", "/runs", f"/compare?run={job_id}"):
        assert 'data-cell="best_score" title="fell from its best at step 2">0.9700' in page(service, path)


def test_a_run_of_an_earlier_version_has_fallen_at_a_step_that_is_not_known(service: Service) -> None:
    job_id = put_fallen(service, best_step=None)
    assert "It fell from its best accuracy 0.9700 to 0.2600." in page(service, f"/runs/{job_id}")
    assert 'data-cell="best_score" title="fell from its best">0.9700' in page(service, f"/compare?run={job_id}")


def test_a_run_that_ended_before_its_last_step_is_shown_as_ended(service: Service) -> None:
    shown = page(service, f"/runs/{put_fallen(service, total_steps=1260)}")
    assert ('<progress value="1260" max="1260"' in shown, "Ended at step 3 of 1,260" in shown) == (True, True)


def test_each_mistake_is_told_beside_its_field(service: Service) -> None:
    """Of what a run holds, which is looked at first, and of what it trains, all at once."""
    typed = {
        "batch.global_batch_size": "many", "learning_rate.base": "-1", "optimizer.beta1": "1.5", "seed": "x", "priority": "1000", "workers": "two",
        "set": "optimizer.beta3=1\nprecision=float16",
    }  # fmt: skip
    answer = httpx.post(f"{service.url}/runs/new", data={"recipe": "digits-lamb", "do": "start", **typed}, verify=NO_TLS)
    told = {
        name.replace("-", "."): words.strip()
        for name, words in re.findall(r'<p class="error" id="f-([\w-]+)-error" role="alert">(.*?)</p>', answer.text)
    }
    assert (answer.status_code, told.keys()) == (422, typed.keys())
    assert [told[name] for name in ("learning_rate.base", "optimizer.beta1")] == [
        "must be above 0, not -1. The rate that was tuned, for base_global_batch_size (or for the batch itself if that is not given).",
        "must be below 1.0, not 1.5. Decay of the first moment (lion: weight of the mean in a step, beside the gradient); default 0.9.",
    ]
    assert told["set"].startswith("optimizer.beta3: ")
    assert "precision: must be" in told["set"]
    assert answer.text.count("autofocus") == 1
    others = httpx.post(f"{service.url}/v1/runs", json={"recipe": "digits-lamb", "set": {"seed": "x", "optimizer.beta1": 1.5}}, verify=NO_TLS).json()
    assert {others["field"], *(other["field"] for other in others["others"])} == {"seed", "optimizer.beta1"}


def test_bounds_of_workers_the_wrong_way_round_are_told_beside_them(service: Service) -> None:
    answer = httpx.post(f"{service.url}/runs/new", data={"recipe": "digits-lamb", "do": "start", "workers": "8:2"}, verify=NO_TLS)
    assert re.search(r'id="f-workers-error" role="alert">\S', answer.text)
    assert 'class="banner bad general"' not in answer.text


def test_the_comparison_has_rate_steps_and_times(service: Service) -> None:
    job_id = put_fallen(service)
    cells = dict(re.findall(r'data-label="(Rate|Steps|Training|To target)">(.*?)</td>', page(service, f"/compare?run={job_id}")))
    assert cells.keys() == {"Rate", "Steps", "Training", "To target"}
    job = httpx.get(f"{service.url}/v1/runs/{job_id}", verify=NO_TLS).json()
    assert (cells["Rate"], cells["Steps"]) == (f"{job['learning_rate']:g}", "3")


def test_a_wrong_end_of_a_range_is_not_told_to_be_a_list(service: Service) -> None:
    """Which the other kind of a space is."""
    typed = {"recipe": "digits-small-batch", "each.batch.global_batch_size": "32, 64", "low": "x", "high": "y", "do": "start"}
    answer = httpx.get(f"{service.url}/sweeps/new", headers={"Accept": "text/html"}, verify=NO_TLS)
    names = re.findall(r'<input id="f-[\w-]+" name="([^"]+)"', answer.text)
    low, high = (next(name for name in names if name.endswith(end)) for end in ("low", "high"))
    answer = httpx.post(f"{service.url}/sweeps/new", data={**typed, low: "x", high: "y"}, verify=NO_TLS)
    told = re.findall(r'<p class="error" id="f-[\w-]+-error" role="alert">(.*?)</p>', answer.text)
    assert [words.partition(".")[0].strip() for words in told] == ["must be a number, not &#34;x&#34;", "must be a number, not &#34;y&#34;"]
