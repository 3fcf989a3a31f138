"""How long answers take: the report of 500 runs from MLflow, and the analysis of 10,000 runs.

The runs are made, not trained: a planted curve over eight batch sizes, with many seeds. The report is the command as a person
types it, against an SQLite file and against an MLflow server.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _report import parser, publish
from _tests_path import ROOT
from made_runs import made_folder, made_run
from ports import free_port

from largebatch.jobs.tracking.mlflow_mirror import sync_run
from largebatch.tuning.results.findings import find
from largebatch.tuning.results.wording import answer_of

BATCHES = [2**n for n in range(4, 12)]


def main() -> None:
    """Make, measure, print."""
    arguments = parser(__doc__, repetitions=3)
    arguments.add_argument("--runs", type=int, default=500, help="of the report")
    arguments.add_argument("--analysed", type=int, default=10_000, help="of the analysis")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        uri = f"sqlite:///{folder}/mlflow.db"
        os.environ["MLFLOW_TRACKING_URI"] = uri
        for number in range(given.runs):
            sync_run(made_folder(folder / "runs", BATCHES[number % len(BATCHES)], number // len(BATCHES)))
        rows = [_row(f"report of {given.runs} runs, MLflow in SQLite", [_report(folder, uri) for _ in range(given.repetitions)], "10 s")]
        rows.append(_row(f"report of {given.runs} runs, MLflow server", _through_a_server(folder, uri, given), "10 s"))
    made = [made_run(BATCHES[n % len(BATCHES)], n // len(BATCHES), 0.8 + 0.05 * (n % 9)) for n in range(given.analysed)]
    times = []
    for _ in range(given.repetitions):
        began = time.perf_counter()
        findings = find(made)
        answer_of(findings)
        times.append(time.perf_counter() - began)
    rows.append(_row(f"analysis of {given.analysed:,} runs", times, "60 s"))
    publish("How long answers take", rows, ["Wall seconds; of the reports the whole command, imports included."], given)


def _report(folder: Path, uri: str) -> float:
    command = [sys.executable, "-m", "largebatch", "report", "--experiment", "largebatch", "--mlflow-uri", uri, "--output", str(folder / "report")]
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    assert (folder / "report" / "report.html").is_file()
    return time.perf_counter() - began


def _through_a_server(folder: Path, uri: str, given: argparse.Namespace) -> list[float]:
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--port", str(port), "--workers", "1"]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        import urllib.request

        ends_at = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                break
            except OSError:
                assert time.monotonic() < ends_at, (folder / "server.log").read_text()[-2000:]
                time.sleep(0.2)
        return [_report(folder, f"http://127.0.0.1:{port}") for _ in range(given.repetitions)]
    finally:
        server.terminate()
        server.wait(20)


def _row(what: str, times: list[float], target: str) -> dict[str, str]:
    return {"what": what, "seconds": f"{sorted(times)[len(times) // 2]:.1f}", "longest": f"{max(times):.1f}", "target": target}


if __name__ == "__main__":
    main()
