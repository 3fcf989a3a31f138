"""`largebatch doctor`: what is found, what is missing, and how to get it."""

import contextlib
import http.server
import importlib.metadata
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import largebatch

from largebatch.jobs.data.sources.table import TORCHVISION_FILES, load_dataset
from largebatch.jobs.spec.model_and_data import DatasetSpec
from largebatch.service.cli.commands import doctor


def findings(data_dir: Path, output_dir: Path | str) -> dict[str, doctor.Finding]:
    return {finding.what: finding for finding in doctor.examine(data_dir, str(output_dir))}


@contextlib.contextmanager
def answering(status: int) -> Iterator[str]:
    """The address of a server that answers every request for /health with this status, and others with 418."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health" else 418)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_the_command_is_content_here(tmp_path: Path) -> None:
    done = largebatch("doctor", "--data-dir", tmp_path, "--output-dir", tmp_path / "runs")
    assert done.exit_code == 0
    for word in ("torch", "digits", "mnist", "run folders", "mlflow store", "python"):
        assert word in done.stdout
    assert not list(tmp_path.iterdir())


def test_the_sizes_of_the_data_are_told(tmp_path: Path, image_data_dir: Path) -> None:
    digits = load_dataset(DatasetSpec(name="digits"), tmp_path)
    sizes = f"{len(digits.train):,} training samples, {len(digits.test)} test samples, {digits.num_classes} classes"
    assert findings(tmp_path, tmp_path)["digits"].state.endswith(sizes)
    assert findings(image_data_dir, tmp_path)["mnist"].state.endswith("60,000 training samples, 10,000 test samples, 10 classes")


def test_missing_data_says_how_to_get_it(tmp_path: Path) -> None:
    found = findings(tmp_path, tmp_path)["cifar10"]
    assert not found.is_fine
    assert not found.is_needed
    assert f"not in {tmp_path} (cifar-10-batches-py/data_batch_1)" in found.state
    assert "--set dataset.download=true" in found.state


def test_data_that_is_there_is_found(tmp_path: Path) -> None:
    for file in TORCHVISION_FILES["mnist"]:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    found = findings(tmp_path, tmp_path)
    assert found["mnist"].is_fine
    assert not found["fashion-mnist"].is_fine


def test_a_missing_package_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(package: str) -> str:
        if package in {"mlflow", "torch"}:
            raise importlib.metadata.PackageNotFoundError(package)
        return real(package)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = findings(tmp_path, tmp_path)
    assert found["mlflow"].state == "not installed: pip install mlflow"
    assert (found["mlflow"].is_needed, found["torch"].is_needed) == (False, True)
    assert largebatch("doctor", "--output-dir", tmp_path).exit_code == 1


def test_the_folder_of_the_environment_is_the_one_that_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LARGEBATCH_OUTPUT_DIR", str(tmp_path / "elsewhere"))
    done = largebatch("doctor", "--data-dir", tmp_path)
    assert "elsewhere" in done.stdout
    assert done.exit_code == 0


def test_storage_by_uri_is_named_and_has_no_database(tmp_path: Path) -> None:
    found = findings(tmp_path, "s3://bucket/runs")
    assert found["run folders"].is_fine
    assert found["run folders"].state.startswith("s3://bucket/runs, which a run will try")
    assert "set MLFLOW_TRACKING_URI" in found["mlflow store"].state
    assert "sqlite" not in found["mlflow store"].state


def test_an_output_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = findings(tmp_path, tmp_path / "file")["run folders"]
    assert not found.is_fine
    assert found.is_needed
    assert "is a file, not a folder" in found.state


class TestMlflow:
    def test_none_is_needed(self, tmp_path: Path) -> None:
        found = findings(tmp_path, tmp_path)["mlflow store"]
        assert found.is_fine
        assert f"sqlite:///{tmp_path / 'mlflow.db'}" in found.state

    @pytest.mark.parametrize(("status", "is_fine"), [(200, True), (401, True), (404, False), (503, False)])
    def test_one_that_answers(self, status: int, is_fine: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with answering(status) as uri:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{uri}/")
            found = findings(tmp_path, tmp_path)["mlflow store"]
        assert found.is_fine is is_fine
        assert ("not as MLflow does" in found.state) is not is_fine

    @pytest.mark.parametrize("uri", ["http://h:abc", "http://", "http://[1"])
    def test_an_address_that_is_none(self, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        found = findings(tmp_path, tmp_path)["mlflow store"]
        assert not found.is_fine
        assert found.state.startswith(f"{uri} does not answer (")

    def test_one_that_does_not(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        found = findings(tmp_path, tmp_path)["mlflow store"]
        assert not found.is_fine
        assert not found.is_needed
        assert "does not answer" in found.state
        assert "largebatch sync" in found.state

    def test_a_file_store(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///my.db")
        assert findings(tmp_path, tmp_path)["mlflow store"].state.startswith("sqlite:///my.db")
