"""What the page of a job, and the lists, say beside its state."""

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
