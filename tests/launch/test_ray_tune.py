"""The example of docs/sweeps.md: `largebatch.train` inside a search of Ray Tune's."""

import os
import re
import subprocess
import sys
from pathlib import Path

import launch_runs as runs
import yaml
from launch_runs import Head

import largebatch

PAGE = Path(__file__).parents[2] / "docs" / "sweeps.md"


def test_the_documents_example_searches_and_leaves_run_folders(head: Head, tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "search.py").write_text(example)
    document = runs.document(stop={"steps": 6}, batch_norm={"span": "global"})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(document))
    environment = {**os.environ, "RAY_ADDRESS": head.address, "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "search.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "'rate'" in done.stdout
    trained = [largebatch.load_run(folder) for folder in (tmp_path / "runs").iterdir()]
    assert sorted(run.spec.batch.global_batch_size for run in trained) == [64, 64, 256, 256]
    assert all(run.summary is not None and run.summary.steps == 6 for run in trained)
