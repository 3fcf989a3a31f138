"""Plans of large models: within the memory that the service gives them, exactly as with their weights, and nobody's shut others out."""

import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from small_runs import CPU, document, synthetic, wait_for

from largebatch.jobs.errors import FaultError
from largebatch.jobs.job import prepare
from largebatch.jobs.spec.read import build_spec
from largebatch.service.api import analysis
from largebatch.service.api.analysis_worker import MOST_AT_ONCE, MOST_OF_ONE, TIMEOUT_S, TURN_S, AnalysisWorker, Turns
from largebatch.service.client import WORKED_OUT_S

GIB = 1 << 30


def recipe(name: str, size: int, **parts: Any) -> dict[str, Any]:
    data = synthetic(32, 16, (3, size, size))
    return document(model={"name": name}, dataset=data, batch={"global_batch_size": 16, "micro_batch_size": "auto"}, **parts)


@pytest.mark.parametrize(
    ("name", "size", "parts"),
    [("resnet9", 32, {"optimizer": {"name": "muon"}}),
     *(pytest.param(*case, marks=pytest.mark.slow)
       for case in (("resnet18", 64, {}), ("swin_t", 64, {}), ("resnet18", 64, {"ema": {"decay": 0.9}})))],
)  # fmt: skip
def test_a_plan_without_weights_says_what_one_with_them_says(name: str, size: int, parts: dict[str, Any]) -> None:
    spec = build_spec(recipe(name, size, **parts))
    whole, without = prepare(spec, CPU, Path("nowhere")), prepare(spec, CPU, Path("nowhere"), most_weight_bytes=0)
    assert without.plan_in_numbers() == whole.plan_in_numbers()
    lines = without.plan_in_words()
    assert [line for line in lines if line[0] != "model check"] == [line for line in whole.plan_in_words() if line[0] != "model check"]
    assert next(how for what, how in lines if what == "model check").startswith("made before training")
    storages = {parameter.untyped_storage().data_ptr(): parameter.untyped_storage().nbytes() for parameter in without.model.parameters()}
    assert sum(storages.values()) <= 8 * len(storages)


def sweep(*optimizers: str) -> dict[str, Any]:
    """Each of the optimizers must be able to train the model."""
    each = {"optimizer": [*optimizers], "batch.global_batch_size": [16]}
    return {"recipe": "of-the-test", "each": each, "search": {"method": "random", "trials": 1}, "repeats": 1}


def test_a_sweeps_models_are_examined_without_weights_too() -> None:
    def lines(width: int) -> list[str]:
        base = build_spec(document(model={"name": "mlp", "arguments": {"width": width, "depth": 2}})).model_dump(mode="json")
        return [f"{line['what']}: {line['how']}" for line in analysis.plan_sweep(sweep("sgd", "lamb"), base, "nowhere")["lines"]]

    assert lines(width=8200) == [*lines(width=4), "model check: made before each run; this plan was made without the model's weights"]


@pytest.mark.slow
def test_a_model_of_a_gigabyte_is_planned_within_the_guard() -> None:
    """The guard is three fifths of the 3 GiB that its container has; with weights it took 5.2.

    vit_l_16 has 304,326,632 parameters with ImageNet's 1,000 classes (torchvision's table);
    these data have 4, so 996 x 1,025 fewer."""
    worker = AnalysisWorker(timeout_s=400, most_bytes=int(1.8 * GIB))
    try:
        spec = build_spec(recipe("vit_l_16", 224)).model_dump(mode="json")
        answer = worker.ask("plan", spec, "nowhere", None)
        assert worker.ask("plan_sweep", sweep("lamb"), spec, "nowhere")["runs"] == 1
    finally:
        worker.close()
    memory = next(line["how"] for line in answer["lines"] if line["what"] == "memory")
    assert f"({304_326_632 - 996 * 1_025:,} parameters)" in memory


def test_what_does_not_fit_is_told_and_the_next_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "large_questions.py").write_text(
        "import torch\nfrom largebatch.jobs.errors import PlanError\n\n\ndef small(): return 1\n\n\n"
        "def large(): return torch.zeros(1 << 31).sum()\n\n\n"
        "def list_of_many(): return len([0] * (1 << 30))\n\n\n"
        "def wrapped():\n    try:\n        large()\n    except RuntimeError as error:\n        raise PlanError('model', 'fails') from error\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    worker = AnalysisWorker("large_questions", most_bytes=3 * GIB)
    try:
        for question in ("large", "wrapped", "list_of_many"):
            with pytest.raises(FaultError, match=r"needs more than 3\.0 GiB"):
                worker.ask(question)
        assert worker.ask("small") == 1
    finally:
        worker.close()


def test_askers_take_turns() -> None:
    """Three questions of one asker are there before the one of another, and only the one that was begun by then comes first."""
    turns, order, release = Turns(3, 20, 60.0), list[str](), threading.Event()

    def ask(asker: str) -> None:
        with turns.turn(asker):
            order.append(asker)
            release.wait(60)

    threads = []
    for number, asker in enumerate(["heavy", "heavy", "heavy", "other", "third"]):
        threads.append(threading.Thread(target=ask, args=(asker,)))
        threads[-1].start()
        wait_for(lambda: bool(order) and turns.num_waiting == number, 60)  # noqa: B023
    with pytest.raises(FaultError, match="3 questions of yours"), turns.turn("heavy"):
        pass
    assert [turns.num_before(asker) for asker in ("heavy", "other", "third", "nobody")] == [1, 2, 3, 0]
    time.sleep(0.05)  # so that the first one's answer has taken time
    release.set()
    for thread in threads:
        thread.join(60)
    assert order == ["heavy", "other", "third", "heavy", "heavy"]


def test_whoever_asked_nothing_yet_gets_a_turn_beside_those_who_ask_ever_heavier_things() -> None:
    """The service's own times, a fiftieth as long: answers of two askers that take all that one may, and little questions beside them."""
    turns, over, refused = Turns(MOST_OF_ONE, MOST_AT_ONCE, TURN_S / 50), threading.Event(), list[str]()

    def ask_heavily(asker: str) -> None:
        while not over.is_set():
            with suppress(FaultError), turns.turn(asker):
                over.wait(TIMEOUT_S / 50)

    threads = [threading.Thread(target=ask_heavily, args=(asker,)) for asker in ("eve", "mallory") for _ in range(MOST_OF_ONE)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: turns.num_waiting >= MOST_OF_ONE, 60)
        time.sleep(2.5 * TIMEOUT_S / 50)  # each of the two has had an answer
        for asker in ("bob", "bob", "carol"):
            try:
                with turns.turn(asker):
                    pass
            except FaultError as error:
                refused.append(f"{asker}: {error}")
    finally:
        over.set()
        for thread in threads:
            thread.join(60)
    assert refused == []


def test_a_few_askers_do_not_take_every_place() -> None:
    turns, release = Turns(4, 6, 60.0), threading.Event()

    def ask(asker: str) -> None:
        with turns.turn(asker):
            release.wait(60)

    threads = [threading.Thread(target=ask, args=(asker,)) for asker in ("one", "one", "two")]
    for number, thread in enumerate(threads):
        thread.start()
        wait_for(lambda: turns.num_waiting == number, 60)  # noqa: B023
    with pytest.raises(FaultError, match="many such questions"), turns.turn("two"):
        pass
    threads.append(threading.Thread(target=ask, args=("three",)))
    threads[-1].start()
    wait_for(lambda: turns.num_waiting == 3, 60)
    release.set()
    for thread in threads:
        thread.join(60)


def test_the_command_waits_as_long_as_the_service_may_take() -> None:
    assert TIMEOUT_S < TURN_S
    assert TURN_S + TIMEOUT_S < WORKED_OUT_S


def test_a_turn_that_does_not_come_is_told_and_all_together_are_bounded() -> None:
    turns = Turns(2, 2, 0.2)
    with turns.turn("first"):
        with pytest.raises(FaultError, match=r"has not come within 0\.2 s"), turns.turn("second"):
            pass
        assert turns.num_waiting == 0
    with turns.turn("second"):
        pass
    full = Turns(2, 1, 0.2)
    with full.turn("first"), pytest.raises(FaultError, match="many such questions"), full.turn("second"):
        pass
