"""largebatch serve, db, token: the service and what its operator does."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from largebatch.jobs.streams import print_answer
from largebatch.service.cli.options import AsJson

if TYPE_CHECKING:
    from sqlalchemy import Engine

app = typer.Typer()
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        help="postgresql://user@host/database; default: an SQLite file among the runs.", envvar="LARGEBATCH_DATABASE_URL", show_default=False
    ),
]
RunsDir = Annotated[Path, typer.Option(help="Where run folders go, and the embedded database.", envvar="LARGEBATCH_RUNS_DIR")]


@app.command(epilog="Example: largebatch serve --data-dir data")
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; beyond this machine, tokens are needed.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8080,
    database_url: DatabaseUrl = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            help="Dashboard of a Ray cluster that runs the jobs; default: this machine.", envvar="RAY_API_SERVER_ADDRESS", show_default=False
        ),
    ] = None,
    data_dir: Annotated[Path, typer.Option(help="Where data sets lie.", envvar="LARGEBATCH_DATA_DIR")] = Path("data"),
    runs_dir: Annotated[
        str,
        typer.Option(
            help="Where run folders go, and the embedded database; with Ray also a URI, such as s3://bucket/runs.", envvar="LARGEBATCH_RUNS_DIR"
        ),
    ] = "runs",
    cpus: Annotated[float | None, typer.Option(min=0.1, help="Cores that jobs may hold together; default all.", show_default=False)] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="GPUs that jobs may hold together; default all.", show_default=False)] = None,
    with_tokens: Annotated[bool, typer.Option("--with-tokens", help="Ask for tokens on this machine too.")] = False,
    entry_point: Annotated[
        list[str] | None, typer.Option(metavar="MODULE:FUNCTION", help="Own code that requests may name.", show_default=False)
    ] = None,
    allow_download: Annotated[bool, typer.Option("--allow-download", help="Let requests fetch data sets from their publishers.")] = False,
    max_running_per_owner: Annotated[int, typer.Option(min=0, help="Jobs of one owner at a time; 0: accept them, begin none.")] = 100,
    max_gpus_per_owner: Annotated[int, typer.Option(min=0, help="GPUs of one owner at a time.")] = 10_000,
    requests_per_minute: Annotated[int, typer.Option(min=1, help="Of one asker.")] = 60_000,
    max_failures: Annotated[int, typer.Option(min=0, help="Faults after which a job has failed.")] = 5,
    ray_python: Annotated[str, typer.Option(help="The Ray cluster's Python.")] = "python",
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Take up local jobs that a machine began which is gone; nothing of them may still run.")
    ] = False,
    mlflow_url: Annotated[
        str | None,
        typer.Option(help="MLflow as browsers find it; default MLFLOW_TRACKING_URI.", envvar="LARGEBATCH_MLFLOW_URL", show_default=False),
    ] = None,
    ray_dashboard_url: Annotated[
        str | None,
        typer.Option(help="Ray's dashboard as browsers find it; default --ray-address.", envvar="LARGEBATCH_RAY_DASHBOARD_URL", show_default=False),
    ] = None,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log lines as JSON, one object each.")] = False,
) -> None:
    """Start the service: a REST interface, a queue that forgets nothing, and a page."""
    import os

    from largebatch.service.api.serve import serve as run
    from largebatch.service.present.links import web_address
    from largebatch.service.settings import Settings, read_runs_dir

    folder, store = read_runs_dir(runs_dir, port, ray_address, database_url)
    defaults = Settings()
    run(
        Settings(
            host=host, port=port, database_url=database_url, ray_address=ray_address, data_dir=data_dir, runs_dir=folder, store=store,
            cpus=cpus if cpus is not None else defaults.cpus, gpus=gpus if gpus is not None else _num_gpus(), wants_tokens=with_tokens,
            entry_points=frozenset(entry_point or []), allows_download=allow_download, max_running_per_owner=max_running_per_owner,
            max_gpus_per_owner=max_gpus_per_owner, rate_per_minute=requests_per_minute, max_failures=max_failures, ray_python=ray_python,
            takes_over=take_over, tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or None,
            mlflow_url=web_address("--mlflow-url", mlflow_url) if mlflow_url else None,
            ray_dashboard_url=web_address("--ray-dashboard-url", ray_dashboard_url) if ray_dashboard_url else None,
        ),
        log_json,
    )  # fmt: skip


def _num_gpus() -> int:
    """By the driver, without importing torch."""
    import pynvml  # type: ignore[import-untyped]

    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return 0


database = typer.Typer(help="The service's database.", no_args_is_help=True, add_completion=False)
app.add_typer(database, name="db")


@database.command(epilog="Example: largebatch db upgrade --database-url postgresql://user@host/largebatch")
def upgrade(database_url: DatabaseUrl = None, runs_dir: RunsDir = Path("runs")) -> None:
    """Bring the schema up to what this program needs; does nothing where it is."""
    from largebatch.service.db.engine import connect
    from largebatch.service.db.engine import upgrade as bring_up
    from largebatch.service.settings import Settings

    engine = connect(Settings(database_url=database_url, runs_dir=runs_dir).url)
    before, after = bring_up(engine)
    was = "" if before == after else f" (was {before})" if before else " (was empty)"
    print(f"The schema is at revision {after}{was}.")


tokens = typer.Typer(help="Tokens that let people and programs ask the service.", no_args_is_help=True, add_completion=False)
app.add_typer(tokens, name="token")


@tokens.command("create", epilog="Example: largebatch token create alice --scope submit --days 90")
def create(
    owner: Annotated[str, typer.Argument(help="Whose jobs they will be.", show_default=False)],
    scope: Annotated[str, typer.Option(help="read, submit or admin.")] = "submit",
    days: Annotated[float | None, typer.Option(min=0.0001, help="Until it expires; default never.", show_default=False)] = None,
    database_url: DatabaseUrl = None,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Make a token, print it once, and keep only its hash."""
    import sys
    import time

    from largebatch.service.db.tokens import Tokens

    secret, token = Tokens(_engine(database_url, runs_dir)).create(owner, scope, None if days is None else time.time() + days * 86400)
    print(f"Token {token.id} of {owner}, scope {scope}. It is shown only now:", file=sys.stderr)
    print(secret)


@tokens.command("list", epilog="Example: largebatch token list")
def list_tokens(database_url: DatabaseUrl = None, runs_dir: RunsDir = Path("runs"), as_json: AsJson = False) -> None:
    """List tokens, without what they are."""
    import json
    from datetime import UTC, datetime

    from rich.table import Table

    from largebatch.service.cli.tables import output
    from largebatch.service.db.tokens import Tokens

    found = Tokens(_engine(database_url, runs_dir)).all()
    if as_json:
        print_answer(json.dumps([token.model_dump() for token in found]))
        return

    def day(at_s: float | None) -> str:
        return "" if at_s is None else datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d")

    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("id", "owner", "scope", "created", "expires", "revoked"):
        table.add_column(column)
    for token in found:
        table.add_row(token.id, token.owner, token.scope, day(token.created_at_s), day(token.expires_at_s), day(token.revoked_at_s))
    output().print(table)


@tokens.command("revoke", epilog="Example: largebatch token revoke 1a2b3c4d")
def revoke(
    token_id: Annotated[str, typer.Argument(metavar="ID", show_default=False)], database_url: DatabaseUrl = None, runs_dir: RunsDir = Path("runs")
) -> None:
    """End a token, and the sessions it opened."""
    from largebatch.jobs.errors import InputError
    from largebatch.service.db.tokens import Tokens

    if not Tokens(_engine(database_url, runs_dir)).revoke(token_id):
        raise InputError("ID", f"there is no valid token {token_id}.", "largebatch token list shows them.")
    print(f"Token {token_id} is revoked.")


def _engine(database_url: str | None, runs_dir: Path) -> "Engine":
    from largebatch.service.db.engine import connect, refuse_outdated
    from largebatch.service.db.engine import upgrade as bring_up
    from largebatch.service.settings import Settings

    settings = Settings(database_url=database_url, runs_dir=runs_dir)
    engine = connect(settings.url)
    if database_url is None:
        bring_up(engine)
    else:
        refuse_outdated(engine)
    return engine
