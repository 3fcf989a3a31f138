"""largebatch serve, db, token: the service and what its operator does."""

from typing import TYPE_CHECKING, Annotated

import typer

from largebatch.jobs.streams import print_answer
from largebatch.service.cli.options import AsJson
from largebatch.service.cli.spread import Only, spread
from largebatch.service.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Engine

app = typer.Typer()
Database = Annotated[Settings, Only("database_url", "runs_dir")]
"""The settings of a command that needs the service's database alone."""


@app.command(epilog="Example: largebatch serve --data-dir data")
@spread
def serve(settings: Settings) -> None:
    """Start the service: a REST interface, a queue that forgets nothing, and a page."""
    from largebatch.service.api.serve import serve as run

    run(settings)


database = typer.Typer(help="The service's database.", no_args_is_help=True, add_completion=False)
app.add_typer(database, name="db")


@database.command(epilog="Example: largebatch db upgrade --database-url postgresql://user@host/largebatch")
@spread
def upgrade(settings: Database) -> None:
    """Bring the schema up to what this program needs; does nothing where it is."""
    from largebatch.service.db.engine import connect
    from largebatch.service.db.engine import upgrade as bring_up

    before, after = bring_up(connect(settings.url))
    was = "" if before == after else f" (was {before})" if before else " (was empty)"
    print(f"The schema is at revision {after}{was}.")


tokens = typer.Typer(help="Tokens that let people and programs ask the service.", no_args_is_help=True, add_completion=False)
app.add_typer(tokens, name="token")


@tokens.command("create", epilog="Example: largebatch token create alice --scope submit --days 90")
@spread
def create(
    owner: Annotated[str, typer.Argument(help="Whose jobs they will be.", show_default=False)],
    scope: Annotated[str, typer.Option(help="read, submit or admin.")] = "submit",
    days: Annotated[float | None, typer.Option(min=0.0001, help="Until it expires; default never.", show_default=False)] = None,
    *,
    settings: Database,
) -> None:
    """Make a token, print it once, and keep only its hash."""
    import sys
    import time

    from largebatch.service.db.tokens import Tokens

    secret, token = Tokens(_engine(settings)).create(owner, scope, None if days is None else time.time() + days * 86400)
    print(f"Token {token.id} of {owner}, scope {scope}. It is shown only now:", file=sys.stderr)
    print(secret)


@tokens.command("list", epilog="Example: largebatch token list")
@spread
def list_tokens(settings: Database, as_json: AsJson = False) -> None:
    """List tokens, without what they are."""
    import json
    from datetime import UTC, datetime

    from rich.table import Table

    from largebatch.service.cli.tables import output
    from largebatch.service.db.tokens import Tokens

    found = Tokens(_engine(settings)).all()
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
@spread
def revoke(token_id: Annotated[str, typer.Argument(metavar="ID", show_default=False)], settings: Database) -> None:
    """End a token, and the sessions it opened."""
    from largebatch.jobs.errors import InputError
    from largebatch.service.db.tokens import Tokens

    if not Tokens(_engine(settings)).revoke(token_id):
        raise InputError("ID", f"there is no valid token {token_id}.", "largebatch token list shows them.")
    print(f"Token {token_id} is revoked.")


def _engine(settings: Settings) -> "Engine":
    from largebatch.service.db.engine import connect, refuse_outdated
    from largebatch.service.db.engine import upgrade as bring_up

    engine = connect(settings.url)
    if settings.database_url is None:
        bring_up(engine)
    else:
        refuse_outdated(engine)
    return engine
