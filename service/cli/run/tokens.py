"""Upgrades the service's database, and makes, lists and revokes tokens: `largebatch db` and `largebatch token`."""

import json
import sys
import time
from datetime import UTC, datetime

from largebatch.jobs.errors import InputError
from largebatch.jobs.streams import print_answer
from largebatch.service.cli.tables import output, plain_table
from largebatch.service.db import engine as database
from largebatch.service.db.tokens import Tokens
from largebatch.service.settings import Settings

DAY_S = 86_400


def upgrade(settings: Settings) -> None:
    """Bring the schema up to date, and say from where."""
    before, after = database.upgrade(database.connect(settings.url))
    was = "" if before == after else f" (was {before})" if before else " (was empty)"
    print(f"The schema is at revision {after}{was}.")


def create(settings: Settings, owner: str, scope: str, days: float | None) -> None:
    """Print a new token."""
    secret, token = _tokens(settings).create(owner, scope, None if days is None else time.time() + days * DAY_S)
    print(f"Token {token.id} of {owner}, scope {scope}. It is shown only now:", file=sys.stderr)
    print(secret)


def print_tokens(settings: Settings, as_json: bool) -> None:
    """A line for each token."""
    tokens = _tokens(settings).all()
    if as_json:
        print_answer(json.dumps([token.model_dump() for token in tokens]))
        return
    table = plain_table("id", "owner", "scope", "created", "expires", "revoked")
    for token in tokens:
        table.add_row(token.id, token.owner, token.scope, *map(_day, (token.created_at_s, token.expires_at_s, token.revoked_at_s)))
    output().print(table)


def _day(at_s: float | None) -> str:
    return "" if at_s is None else datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d")


def revoke(settings: Settings, token_id: str) -> None:
    """End a token. Raises: InputError."""
    if not _tokens(settings).revoke(token_id):
        raise InputError("ID", f"there is no valid token {token_id}.", "largebatch token list shows them.")
    print(f"Token {token_id} is revoked.")


def _tokens(settings: Settings) -> Tokens:
    return Tokens(database.open_database(settings))
