"""largebatch serve, db, token: the service and what its operator does."""

from typing import Annotated

import typer

from largebatch.service.cli.options import AsJson
from largebatch.service.cli.typer_parameters import Only, spread
from largebatch.service.settings import Settings

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
    from largebatch.service.cli.run import tokens

    tokens.upgrade(settings)


token = typer.Typer(help="Tokens that let people and programs ask the service.", no_args_is_help=True, add_completion=False)
app.add_typer(token, name="token")


@token.command("create", epilog="Example: largebatch token create alice --scope submit --days 90")
@spread
def create(
    owner: Annotated[str, typer.Argument(help="Whose jobs they will be.", show_default=False)],
    scope: Annotated[str, typer.Option(help="read, submit or admin.")] = "submit",
    days: Annotated[float | None, typer.Option(min=0.0001, help="Until it expires; default never.", show_default=False)] = None,
    *,
    settings: Database,
) -> None:
    """Make a token, print it once, and keep only its hash."""
    from largebatch.service.cli.run import tokens

    tokens.create(settings, owner, scope, days)


@token.command("list", epilog="Example: largebatch token list")
@spread
def list_tokens(settings: Database, as_json: AsJson = False) -> None:
    """List tokens, without what they are."""
    from largebatch.service.cli.run import tokens

    tokens.print_tokens(settings, as_json)


@token.command("revoke", epilog="Example: largebatch token revoke 1a2b3c4d")
@spread
def revoke(token_id: Annotated[str, typer.Argument(metavar="ID", show_default=False)], settings: Database) -> None:
    """End a token, and the sessions it opened."""
    from largebatch.service.cli.run import tokens

    tokens.revoke(settings, token_id)
