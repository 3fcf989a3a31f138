"""Databases of earlier versions, with what lay in them."""

import json

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from largebatch.service.db.engine import HERE, connect, upgrade
from largebatch.service.db.store import Store
from largebatch.service.db.tokens import Tokens, digest
from largebatch.service.job import Kind

ROW = {
    "owner": "ann", "name": "run", "recipe": None, "device": "auto", "cpus": 1.0, "gpus": 0, "priority": 0, "state": "succeeded", "attempt": 1,
    "failures": 0, "is_cancel_asked": False, "created_at_s": 1000.0, "progress": "{}",
}  # fmt: skip
SPECS = {
    "run-1": {"optimizer": {"name": "sgd", "momentum": 0.9}, "learning_rate": {"base": 0.1}, "seed": 3},
    "run-2": {"optimizer": {"name": "own", "entry_point": "mine:make"}, "learning_rate": {"base": 2.0}, "seed": 0},
    "run-3": {},
    "sweep-1": {"recipe": "digits-lamb"},
}


def put(connection: sa.Connection, revision: str, *rows: dict[str, object]) -> None:
    """A database of an earlier version, with jobs."""
    configuration = Config(attributes={"connection": connection})
    configuration.set_main_option("script_location", str(HERE))
    command.upgrade(configuration, revision)
    for row in rows:
        connection.execute(sa.text(f"INSERT INTO jobs ({', '.join(row)}) VALUES ({', '.join(f':{name}' for name in row)})"), row)


def test_jobs_and_tokens_of_before_names_and_projects(database_url: str) -> None:
    engine = connect(database_url)
    with engine.begin() as connection:
        rows = [{**ROW, "id": job_id, "kind": job_id.partition("-")[0], "spec": json.dumps(spec)} for job_id, spec in SPECS.items()]
        put(connection, "0002", *rows)
        token = {"id": "t", "owner": "ann", "scopes": "submit", "digest": digest("secret"), "created_at_s": 1.0}
        connection.execute(sa.text(f"INSERT INTO tokens ({', '.join(token)}) VALUES ({', '.join(f':{name}' for name in token)})"), token)
    assert upgrade(engine)[0] == "0002"
    store = Store(engine)
    facts = {job.id: (job.optimizer, job.learning_rate, job.momentum, job.seed) for job in store.page(Kind.RUN).jobs}
    assert facts == {"run-1": ("sgd", 0.1, 0.9, 3), "run-2": ("mine:make", 2.0, None, 0), "run-3": (None, None, None, None)}
    old = store.find("sweep-1")
    assert old is not None
    assert (old.tags, old.notes, old.project) == ((), "", None), "nobody else reads what was asked for before"
    assert old.code is None
    who = Tokens(engine).principal("secret")
    assert (who.owner, who.project) == ("ann", "main")
    engine.dispose()


def test_runs_that_fell_from_their_best_before_lists_said_so(database_url: str) -> None:
    summaries = {
        "fallen": {"score": 0.26, "best_score": 0.97}, "earlier": {"test_accuracy": 0.26, "best_test_accuracy": 0.97},
        "loss": {"score": 3.1, "best_score": 1.5}, "as-good": {"score": 0.969, "best_score": 0.97},
        "unevaluated": {"score": None, "best_score": None}, "without": None, "known": {"score": 0.26, "best_score": 0.97},
    }  # fmt: skip
    engine = connect(database_url)
    with engine.begin() as connection:
        rows = [{**ROW, "id": name, "kind": "run", "spec": "{}", "summary": json.dumps(summary)} for name, summary in summaries.items()]
        rows[-1]["progress"] = json.dumps({"best_score": 0.98, "best_step": 7})
        put(connection, "0006", *rows)
    upgrade(engine)
    told = {job.id: job.progress.get("best_score") for job in Store(engine).page(Kind.RUN).jobs}
    assert told == {"fallen": 0.97, "earlier": 0.97, "loss": 1.5, "as-good": None, "unevaluated": None, "without": None, "known": 0.98}
    engine.dispose()
