"""The service and what its operator does: `largebatch serve`, `largebatch db` and `largebatch token`."""

import json
import sys
import time
from datetime import UTC, datetime
from typing import Annotated

import typer

from largebatch.jobs.errors import InputError
from largebatch.jobs.streams import print_answer
from largebatch.service.cli.options import TOKEN_VARIABLE, AsJson
from largebatch.service.cli.tables import output, plain_table
from largebatch.service.cli.typer_parameters import spread
from largebatch.service.db.engine import connect, open_database
from largebatch.service.db.engine import upgrade as upgrade_schema
from largebatch.service.db.tokens import MAIN, Tokens
from largebatch.service.settings import Settings

DAY_S = 86_400

app = typer.Typer()
database = typer.Typer(help="The service's database.", no_args_is_help=True, add_completion=False)
app.add_typer(database, name="db")
token = typer.Typer(help="Tokens that let people and programs ask the service.", no_args_is_help=True, add_completion=False)
app.add_typer(token, name="token")
Database = Annotated[Settings, "database_url", "runs_dir"]
"""The settings of a command that needs the service's database alone."""


@app.command(epilog="Example: largebatch serve --data-dir data")
@spread
def serve(settings: Settings) -> None:
    """Start the service: a REST interface, a queue that forgets nothing, and a page."""
    from largebatch.service.api import serve as service  # a second's imports, which the other commands here need not wait for

    service.serve(settings)


@database.command(epilog="Example: largebatch db upgrade --database-url postgresql://user@host/largebatch")
@spread
def upgrade(settings: Database) -> None:
    """Bring the schema up to what this program needs; does nothing where it is."""
    before, after = upgrade_schema(connect(settings.url))
    was = "" if before == after else f" (was {before})" if before else " (was empty)"
    print(f"The schema is at revision {after}{was}.")


@token.command(epilog="Example: largebatch token create alice --scope submit --days 90")
@spread
def create(
    owner: Annotated[str, typer.Argument(help="Whose jobs they will be.")],
    scope: Annotated[str, typer.Option(help="read, submit or admin.")] = "submit",
    days: Annotated[float | None, typer.Option(min=0.0001, help="Until it expires; default never.")] = None,
    name: Annotated[str, typer.Option(help="What it is for.")] = "",
    project: Annotated[str, typer.Option(help="Whose people its owner is one of.")] = MAIN,
    *,
    settings: Database,
) -> None:
    """Make a token, print it once, and keep only its hash."""
    expires = None if days is None else time.time() + days * DAY_S
    secret, made = Tokens(open_database(settings)).create(owner, scope, expires, name=name, project=project)
    print(f"Token {made.id} of {owner}, scope {scope}. It is shown only now:", file=sys.stderr)
    print(secret, flush=True)
    shown = secret if sys.stdout.isatty() else "TOKEN"  # what a script keeps is written into no log
    print(f"Whoever asks the service with it types next: export {TOKEN_VARIABLE}={shown}", file=sys.stderr)


@token.command("list", epilog="Example: largebatch token list")
@spread
def list_tokens(settings: Database, as_json: AsJson = False) -> None:
    """List tokens, without what they are."""
    tokens = Tokens(open_database(settings)).all()
    if as_json:
        print_answer(json.dumps([token.model_dump() for token in tokens]))
        return
    table = plain_table("id", "owner", "name", "scope", "project", "created", "expires", "revoked")
    for token in tokens:
        days = _day(token.created_at_s), _day(token.expires_at_s) or "never", _day(token.revoked_at_s)
        table.add_row(token.id, token.owner, token.name, token.scope, token.project, *days)
    output().print(table)


def _day(at_s: float | None) -> str:
    return "" if at_s is None else datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d")


@token.command(epilog="Example: largebatch token revoke 1a2b3c4d")
@spread
def revoke(token_id: Annotated[str, typer.Argument(metavar="ID")], settings: Database) -> None:
    """End a token, and the sessions it opened."""
    if not Tokens(open_database(settings)).revoke(token_id):
        raise InputError("ID", f"there is no valid token {token_id}.", "largebatch token list shows them.")
    print(f"Token {token_id} is revoked.")
