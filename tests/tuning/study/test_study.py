"""Studies for real, slow: Keskar's F1 on MNIST with a small budget, and one on digits that is killed in the middle."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import ROOT, wait_for


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_f1_on_mnist(tmp_path: Path, image_data_dir: Path) -> None:
    command = [sys.executable, "-m", "largebatch", "study", str(ROOT / "recipes" / "mnist-f1.yaml"), "--budget", "6m", "--json"]
    places = ["--data-dir", str(image_data_dir), "--output-dir", str(tmp_path)]
    done = subprocess.run([*command, *places], capture_output=True, text=True, cwd=ROOT, env={**os.environ}, timeout=1700, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    batches = [row["global_batch_size"] for row in found["batches"]]
    assert len(batches) >= 3
    # McCandlish et al. report a critical batch of about 200 averaged over training for another network on MNIST.
    assert 20 <= found["critical_batch"]["critical_batch_size"] <= 20_000
    (folder,) = tmp_path.glob("study-*")
    sharp = json.loads((folder / "sharpness.json").read_text())["sharp"]
    assert len(sharp) == 2
    assert all(value["value"] > 0 for one in sharp for value in one["sharpness"])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_study_goes_on(tmp_path: Path) -> None:
    study = [sys.executable, "-m", "largebatch", "study", "--device", "cpu"]
    begun = [*study, "digits-small-batch", "--budget", "60s", "--output-dir", str(tmp_path)]
    with subprocess.Popen(begun, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: len(list(tmp_path.glob("study-*/sweep/*/summary.json"))) >= 2, 240, process)
        finally:
            process.kill()
    (folder,) = tmp_path.glob("study-*")
    kept = [folder / "profile.json", folder / "prediction.json", folder / "reference" / "summary.json", *folder.glob("sweep/*/summary.json")]
    before = [path.stat().st_mtime_ns for path in kept]
    done = subprocess.run([*study, "--resume", str(folder), "--json"], capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [path.stat().st_mtime_ns for path in kept] == before, "what was done is not done again"
    found = json.loads(done.stdout)
    assert Path(found["report"]).is_file()
    assert found["num_runs"] >= 4
