"""What a driver says and leaves when it is stopped before and after its first step, with stand-ins for Ray: slow tests have a real one."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from largebatch.jobs.errors import CodeError
from largebatch.jobs.launch.on_ray.driver import Driver, StoppedError
from largebatch.jobs.launch.on_ray.worker.config import WorkerConfig
from largebatch.jobs.launch.options import TrainOptions, Workers
from largebatch.jobs.run.listener import Listener


class Actor:
    """An actor without Ray: each call is made at once."""

    def __init__(self, itself: Any) -> None:
        self._itself = itself

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self._itself, name))


class Room:
    """A reservation that is there."""

    def __init__(self, sizes: Any, *_: object) -> None:
        self._sizes = sizes

    def num_ready(self) -> int:
        return sum(self._sizes)

    def __enter__(self) -> "Room":
        return self

    def __exit__(self, *_: object) -> None: ...


class Launch:
    """A run folder, and a driver that starts in it what stands for a worker group."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, work: Callable[[Any, int, Any], None]) -> None:
        """Args: work: what a group does, told the run channel, its number, and Ray Train's own storage."""
        self.run_dir, self.told = folder / "runs" / "run", list[str]()

        class Trainer:
            def __init__(self, _: object, *, train_loop_config: dict[str, WorkerConfig], run_config: Any, **__: object) -> None:
                self._worker, self._notes = train_loop_config["worker"], run_config.storage_path

            def fit(self) -> None:
                work(self._worker.run_channel, self._worker.group, self._notes)

        def remote(made: Callable[..., Any]) -> Any:
            return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda *arguments: Actor(made(*arguments))))

        monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "0" * 56))
        monkeypatch.setattr(ray, "remote", remote)
        monkeypatch.setattr(ray, "get", lambda answer, timeout: answer)
        monkeypatch.setattr(ray, "kill", lambda actor: None)
        self._stand_ins: dict[str, Any] = {"reserve": Room, "trainer": Trainer}

    def run(self) -> None:
        workers = Workers(1, 1)
        worker = WorkerConfig(
            group=0, run_channel=None, spec={}, run_dir=self.run_dir, data_dir=Path("data"), import_paths=[], uses_gpu=False, num_threads=1,
            options=TrainOptions(recipe="recipe", workers=workers), workers=workers, reasons=[], has_trained=False, draw=lambda run_dir: None,
        )  # fmt: skip
        resources: Any = SimpleNamespace(bundle={"CPU": 1.0})
        Driver(worker, resources, "", Listener(on_notice=self.told.append), **self._stand_ins).run()


def ctrl_c(channel: Any) -> None:
    """Press it, and wait until the workers are told."""
    os.kill(os.getpid(), signal.SIGINT)
    ends_at = time.monotonic() + 60
    while not channel.requests.remote()[0] and time.monotonic() < ends_at:
        time.sleep(0.01)


def test_ctrl_c_before_the_first_step_promises_nothing_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storages = list[Path]()

    def work(channel: Any, _: int, storage: str) -> None:
        storages.append(Path(storage))
        (Path(storage) / "notes-of-ray").mkdir(parents=True)
        channel.begin.remote()
        ctrl_c(channel)
        raise ray.exceptions.RayActorError

    launch = Launch(tmp_path, monkeypatch, work)
    with pytest.raises(KeyboardInterrupt):
        launch.run()
    assert launch.told[0] == "SIGINT: ending as soon as the workers can; no step has been done yet."
    assert not any("finishing this step" in text for text in launch.told)
    assert list(tmp_path.iterdir()) == [], "nothing where the run was to go, hidden or not"
    assert len(storages) == 1
    assert not storages[0].exists()


def test_what_a_persons_own_code_raises_starts_no_other_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = list[int]()

    def work(channel: Any, group: int, _: str) -> None:
        groups.append(group)
        channel.begin.remote()
        channel.trains.remote()
        channel.finish.remote(group, {"error": CodeError("model", "failed at step 3.")})

    with pytest.raises(CodeError, match="failed at step 3"):
        Launch(tmp_path, monkeypatch, work).run()
    assert len(groups) == 1


def test_ctrl_c_after_it_promises_to_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(channel: Any, group: int, _: str) -> None:
        channel.begin.remote()
        channel.trains.remote()
        time.sleep(1.5)  # the driver looks once a second
        ctrl_c(channel)
        channel.finish.remote(group, {"error": StoppedError("", "stopped.")})

    launch = Launch(tmp_path, monkeypatch, work)
    with pytest.raises(StoppedError):
        launch.run()
    assert launch.told == ["SIGINT: finishing this step and saving."]
