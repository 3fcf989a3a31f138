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


def test_jobs_and_tokens_of_before_names_and_projects(database_url: str) -> None:
    engine = connect(database_url)
    with engine.begin() as connection:
        configuration = Config(attributes={"connection": connection})
        configuration.set_main_option("script_location", str(HERE))
        command.upgrade(configuration, "0002")
        for job_id, spec in SPECS.items():
            row = {**ROW, "id": job_id, "kind": job_id.partition("-")[0], "spec": json.dumps(spec)}
            connection.execute(sa.text(f"INSERT INTO jobs ({', '.join(row)}) VALUES ({', '.join(f':{name}' for name in row)})"), row)
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
