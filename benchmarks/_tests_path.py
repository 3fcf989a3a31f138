"""Lets a benchmark use what the tests start servers and make runs with: import it before them."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / name) for name in ("", "tuning", "jobs/launch", "service")]
