"""What several tests need: the smallest real specs, the real data sets where they are, and one real Ray."""

import functools
import gc
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from buckets import new_bucket
from chromium import browser, tab  # noqa: F401, fixtures
from filelock import FileLock
from launch_runs import S3_ENVIRONMENT, Head, new_head
from servers import SECRET, Service, serving
from small_runs import ROOT

# What importing all the tests makes stays: the garbage collector need not walk through it, now or later.
gc.disable()
# Before ray is imported anywhere: no token files, nothing sent.
os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0")


ROWS = {
    "tests/service/backends/test_service_on_ray.py::test_a_head_that_is_killed": "other rays",
    "tests/k8s/test_production.py": "other rays",
    "tests/end_to_end/test_readme.py": "other rays",
    "tests/jobs/launch/": "shared ray",
    "tests/service/backends/test_ray_jobs.py": "shared ray",
    "tests/service/backends/test_service_on_": "shared ray",
    "tests/tuning/sweep/test_sweep.py": "shared ray",
    "tests/tuning/branch/test_branches_on_ray.py": "shared ray",
    "tests/jobs/recorder/test_lightning.py": "trainers",
    "tests/jobs/recorder/test_micro_batch_noise.py": "trainers",
    "tests/jobs/recorder/test_transformers.py": "trainers",
    "tests/test_docs_other_loops.py": "trainers",
    "tests/service/api/test_api.py": "open service",
    "tests/service/cli/test_remote.py": "open service",
    "tests/service/test_faults.py::test_jobs_outlive_the_service": "open service",
    "tests/service/api/test_added_runs.py": "guarded service",
    "tests/service/api/test_openapi.py": "guarded service",
    "tests/service/api/test_own_tokens.py": "guarded service",
    "tests/service/api/test_security.py": "guarded service",
    "tests/service/api/test_code.py": "code service",
    "tests/service/api/test_connections.py": "code service",
    "tests/service/api/test_job_pages.py": "idle service",
    "tests/service/api/test_odd_journals.py": "idle service",
    "tests/service/api/test_studies.py": "idle service",
}
"""Tests on Ray stand in two rows, those on the one head that is shared and those with a Ray of their own, so that no more than
two Rays are up at once; those of other trainers in one, which imports them once; those that share a service in one for each. All others of a
file stand in one."""
ORDER = (
    "shared ray", "open service", "guarded service", "code service", "idle service", "tests/service/",
    "other rays", "tests/browser/", "tests/end_to_end/", "tests/equality/", "",
)  # fmt: skip
"""How rows begin, the longest first, so that nothing is left to wait for at the end; beside a Ray that keeps both cores busy those
that often wait."""


def row_of(nodeid: str) -> str:
    """Tests of one row run one after the other in one process, and share its fixtures."""
    return next((row for start, row in ROWS.items() if nodeid.startswith(start)), nodeid.partition("::")[0])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Rows in their order, and in the longest the sweeps first: they keep a core busy while the service's tests, beside them, wait."""

    def place(item: pytest.Item) -> tuple[int, bool]:
        number = next(number for number, start in enumerate(ORDER) if row_of(item.nodeid).startswith(start))
        return number, not item.nodeid.startswith("tests/tuning/sweep/test_sweep.py")

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """From here on as usual."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Some libraries complain of what is left at the end."""
    gc.unfreeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hands rows to processes, whole; xdist's own groups by marks do nothing under this pytest."""
    from xdist.scheduler import LoadScopeScheduling

    class Rows(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return row_of(nodeid)

        def remove_node(self, node: Any) -> str | None:
            """Of a process that crashed: xdist would hand out its finished rows, too, and wait for good for tests that nobody runs again."""
            rows = self.assigned_work[node]
            for row in [row for row, tests in rows.items() if all(tests.values())]:
                del rows[row]
            crashed: str | None = super().remove_node(node)
            return crashed

    return Rows(config, log)


SERVERS = ExitStack()
"""Those of the row."""


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    """One Ray head with its dashboard, on free ports, in a folder of its own, for all tests that do not break it."""
    with SERVERS:
        yield SERVERS.enter_context(new_head(S3_ENVIRONMENT))


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """A bucket of an S3 that the head's workers find as well."""
    with SERVERS:
        yield SERVERS.enter_context(new_bucket())


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """The servers end with their row: idle, Ray's processes would take a tenth of a core from the tests that follow."""
    if nextitem is None or row_of(nextitem.nodeid) != row_of(item.nodeid):
        SERVERS.close()


SERVICES: dict[tuple[str, ...], Service] = {}
"""Those of the row, by their options."""


@pytest.fixture(scope="module")
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Service:
    """A service for all tests of a row whose files' OPTIONS are the same."""
    options = getattr(request.module, "OPTIONS", ())
    if options not in SERVICES:
        folder = tmp_path_factory.mktemp("service")
        SERVICES[options] = SERVERS.enter_context(serving(folder, *options, MLFLOW_TRACKING_URI="", RAY_AUTH_TOKEN=SECRET))
        SERVERS.callback(SERVICES.clear)
    return SERVICES[options]


@pytest.fixture
def blank_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report's pictures hold nothing: to draw them takes most of its time, and tests/tuning/report looks at real ones."""

    def write_blank(chart: Any, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")

    monkeypatch.setattr("largebatch.tuning.report.report.write_png", write_blank)


SHARED_DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def image_data_dir() -> Path:
    """MNIST, Fashion-MNIST and CIFAR-10 as torchvision reads them, unpacked once into an ignored folder."""
    unpack = SHARED_DATA / "unpack.py"
    if not unpack.is_file():
        pytest.skip("the shared data sets are not beside this checkout")
    target = ROOT / "data"
    target.mkdir(exist_ok=True)
    with FileLock(target / ".unpack.lock"):  # the other process of tests finds them there
        names = ["MNIST", "FashionMNIST", "cifar-10-batches-py"]
        subprocess.run([sys.executable, str(unpack), str(target), *names], check=True, stdout=subprocess.DEVNULL)
    return target


@pytest.fixture(scope="session", autouse=True)
def _certificates_are_read_once() -> Iterator[None]:
    """httpx reads the world's for each client and each request without one, 20 ms of a core, and no test shows one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", functools.cache(ssl.create_default_context))
        yield
