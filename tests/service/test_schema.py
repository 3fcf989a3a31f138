"""Schemathesis over the whole OpenAPI document: thousands of requests, right and wrong, and sequences of them."""

import subprocess
import sys
from pathlib import Path

from servers import new_token, serving

STREAMS = ["events", "events_run", "events_sweep"]
"""They answer for as long as somebody listens; test_api hears them out."""
REVOKES = "revoke_token"
"""It would revoke the token that the requests carry; test_security has it."""


def test_no_request_breaks_what_the_document_promises(tmp_path: Path) -> None:
    with serving(tmp_path, "--with-tokens", "--max-running-per-owner", "0") as service:
        token = new_token(service.runs_dir, "root", "--scope", "admin")
        command = [
            Path(sys.executable).with_name("schemathesis"), "--config-file", Path(__file__).with_name("schemathesis.toml"),
            "run", f"{service.url}/openapi.json", "--header", f"Authorization: Bearer {token}",
            *(part for name in [*STREAMS, REVOKES] for part in ("--exclude-operation-id", name)),
            "--checks", "all",
            "--max-examples", "4", "--max-time", "30", "--generation-deterministic", "--no-shrink", "--no-color", "--continue-on-failure",
        ]  # fmt: skip
        found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False, timeout=250)
        assert found.returncode == 0, found.stdout.partition(" WARNINGS ")[0][-6000:]
        assert "No operations" not in found.stdout
        assert "status=5" not in service.log
