"""Who asks, and what they may: tokens, the sessions of browsers, and three scopes.

A token is 32 random bytes, shown once. The database holds its SHA-256 alone: what is random and that long needs no
slow hash. Comparison is in constant time.
"""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine

from largebatch.jobs.errors import InputError, LargebatchError
from largebatch.service.db.engine import reading, writing
from largebatch.service.db.tables import sessions, tokens
from largebatch.service.job import Described

PREFIX = "lb_"
SCOPES = ("read", "submit", "admin")
"""Each includes those before it: read sees one's own jobs, submit starts and ends them, admin those of all."""
MOST_OF_ONES_OWN = 50
"""Valid tokens that somebody has who is no administrator, before they make no more."""
SESSION_S = 12 * 3600.0
LOCAL_OWNER = "local"
"""Who asks on loopback, where no token is needed."""


MAKE_ONE = "Make one where the service runs: largebatch token create OWNER. Commands read it from LARGEBATCH_TOKEN: export LARGEBATCH_TOKEN=TOKEN"


class UnauthorizedError(LargebatchError):
    """No token, or none that is valid."""


class ForbiddenError(LargebatchError):
    """A valid token that does not allow this."""


@dataclass(frozen=True)
class Principal:
    """On whose behalf a request is made, and what that person may."""

    owner: str
    scope: str
    project: str | None = None
    credential: str = ""
    """Digest of the token or session that let them in; empty where none is needed."""
    token_id: str = ""
    expires_at_s: float | None = None
    """When the token ends."""

    def may(self, scope: str) -> bool:
        """Whether this includes that."""
        return SCOPES.index(self.scope) >= SCOPES.index(scope)

    def require(self, scope: str) -> None:
        """Raises: ForbiddenError."""
        if not self.may(scope):
            raise ForbiddenError("", f"this needs the scope {scope}, and the token has {self.scope}.", "Ask an administrator for another token.")


MAIN = "main"
"""The project of tokens that are told no other."""
ANYONE_HERE = Principal(LOCAL_OWNER, "admin", MAIN)
_BY_DIGEST = sa.select(tokens).where(tokens.c.digest == sa.bindparam("digest"))


class Token(Described):
    """What is known of a token; never the token itself."""

    id: str
    owner: str
    name: str = ""
    """What it is for."""
    scope: str
    project: str = MAIN
    """Whose people its owner is one of."""
    created_at_s: float
    expires_at_s: float | None
    revoked_at_s: float | None
    made_with: str | None = None
    """The id of its owner's token that it was made with, and ends with; none: the operator made it."""


class Tokens:
    """The tokens in one database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(self, owner: str, scope: str, expires_at_s: float | None = None, *, name: str = "", project: str = MAIN) -> tuple[str, Token]:
        """A new token and what is kept of it. Raises: InputError."""
        secret, token = _new(owner, scope, expires_at_s, name, project)
        with writing(self._engine) as connection:
            connection.execute(_inserted(token, secret))
        return secret, token

    def create_own(self, who: Principal, scope: str, expires_at_s: float | None = None, *, name: str = "") -> tuple[str, Token]:
        """A new token of the asker's own: of no more scope than theirs, no longer, and ended with theirs.

        A token that somebody has copied gives them nothing that outlives it. Raises: InputError, ForbiddenError, UnauthorizedError.
        """
        who.require("submit")
        ends_at_s = who.expires_at_s if expires_at_s is None else expires_at_s
        secret, token = _new(who.owner, scope, ends_at_s, name, who.project or MAIN, made_with=who.token_id)
        if not who.may(scope):
            raise ForbiddenError("scope", f"your token has the scope {who.scope}, and makes none with more.", "Ask an administrator for another one.")
        if who.expires_at_s is not None and ends_at_s is not None and ends_at_s > who.expires_at_s:
            raise ForbiddenError("expires_in_s", "it would last longer than yours.", "Leave it empty, and it ends with yours.")
        with writing(self._engine) as connection:
            ours = sa.select(tokens).where(tokens.c.id == who.token_id).with_for_update()
            _valid(connection.execute(ours).one(), who.credential)  # nobody revokes it from here to the end
            valid = tokens.c.owner == who.owner, *_is_valid(time.time())
            if connection.execute(sa.select(sa.func.count()).select_from(tokens).where(*valid)).scalar_one() >= MOST_OF_ONES_OWN:
                raise ForbiddenError("", f"{who.owner} has {MOST_OF_ONES_OWN} valid tokens.", "Revoke those that nothing uses any more.")
            connection.execute(_inserted(token, secret))
        return secret, token

    def all(self, owner: str | None = None) -> list[Token]:
        """Every token, or an owner's, newest first."""
        wanted = sa.select(tokens, tokens.c.scopes.label("scope")).order_by(tokens.c.created_at_s.desc())
        with reading(self._engine) as connection:
            rows = connection.execute(wanted if owner is None else wanted.where(tokens.c.owner == owner))
            return [Token.model_validate(row._asdict()) for row in rows]

    def revoke(self, token_id: str, who: Principal = ANYONE_HERE) -> bool:
        """End a token, those that were made with it, and their sessions; False if there is none that the asker may end.

        Who is no administrator may end their own, of no more scope than the one they show.
        """
        valid = [tokens.c.id == token_id, tokens.c.revoked_at_s.is_(None)]
        if not who.may("admin"):
            valid += [tokens.c.owner == who.owner, tokens.c.scopes.in_([scope for scope in SCOPES if who.may(scope)])]
        with writing(self._engine) as connection:
            if not connection.execute(tokens.update().where(*valid).values(revoked_at_s=time.time())).rowcount:
                return False
            ids = [token_id]
            while ids:  # a generation at a time
                connection.execute(sessions.delete().where(sessions.c.token_id.in_(ids)))
                of_these = tokens.c.made_with.in_(ids)
                ids = list(connection.execute(sa.select(tokens.c.id).where(of_these)).scalars())
                connection.execute(tokens.update().where(of_these, tokens.c.revoked_at_s.is_(None)).values(revoked_at_s=time.time()))
        return True

    def principal(self, secret: str) -> Principal:
        """Who shows this token. Raises: UnauthorizedError."""
        credential = digest(secret)
        with reading(self._engine) as connection:
            row = connection.execute(_BY_DIGEST, {"digest": credential}).one_or_none()
        if row is None or not hmac.compare_digest(row.digest, credential):
            raise UnauthorizedError("Authorization", "the token is not valid.", MAKE_ONE)
        return _valid(row, credential)

    def open_session(self, secret: str) -> str:
        """What a browser's cookie holds from now on, in place of the token. Raises: UnauthorizedError."""
        self.principal(secret)
        cookie = secrets.token_urlsafe(32)
        now = time.time()
        with writing(self._engine) as connection:
            token_id = connection.execute(sa.select(tokens.c.id).where(tokens.c.digest == digest(secret))).scalar_one()
            connection.execute(sessions.delete().where(sessions.c.expires_at_s < now))
            connection.execute(sessions.insert().values(digest=digest(cookie), token_id=token_id, expires_at_s=now + SESSION_S))
        return cookie

    def of_session(self, cookie: str) -> Principal:
        """Who the browser is. Raises: UnauthorizedError."""
        by_session = sa.select(tokens).join(sessions, sessions.c.token_id == tokens.c.id)
        credential = digest(cookie)
        with reading(self._engine) as connection:
            row = connection.execute(by_session.where(sessions.c.digest == credential, sessions.c.expires_at_s > time.time())).one_or_none()
        if row is None:
            raise UnauthorizedError("", "the session is over.", "Sign in again.")
        return _valid(row, credential)

    def still_valid(self, credentials: Collection[str]) -> set[str]:
        """Those of these tokens and sessions, by digest, that would be let in now; one question for all."""
        now = time.time()
        valid = _is_valid(now)
        opened = sa.select(sessions.c.digest).join(tokens, sessions.c.token_id == tokens.c.id)
        still_valid = sa.union(
            sa.select(tokens.c.digest).where(tokens.c.digest.in_(credentials), *valid),
            opened.where(sessions.c.digest.in_(credentials), sessions.c.expires_at_s > now, *valid),
        )
        with reading(self._engine) as connection:
            return set(connection.execute(still_valid).scalars())

    def close_session(self, cookie: str) -> None:
        """Sign out."""
        with writing(self._engine) as connection:
            connection.execute(sessions.delete().where(sessions.c.digest == digest(cookie)))


def digest(secret: str) -> str:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _new(owner: str, scope: str, expires_at_s: float | None, name: str, project: str, made_with: str | None = None) -> tuple[str, Token]:
    """A secret, and the token that it would be. Raises: InputError."""
    for field, value, what in (("owner", owner, "an owner's"), ("project", project, "a project's")):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,99}", value):
            raise InputError(field, f"{value[:100]!r} cannot be {what} name.", "Use letters, digits and . _ @ -")
    if len(name) > 100 or not name.isprintable():
        raise InputError("name", "is longer than 100 characters, or has some that cannot be printed.", "Say in a few words what it is for.")
    if scope not in SCOPES:
        raise InputError("scope", f"{scope!r} is none of {', '.join(SCOPES)}.", "Choose one of them.")
    token = Token(id=secrets.token_hex(4), owner=owner, name=name, scope=scope, project=project, created_at_s=time.time(),
                  expires_at_s=expires_at_s, revoked_at_s=None, made_with=made_with)  # fmt: skip
    return PREFIX + secrets.token_urlsafe(32), token


def _inserted(token: Token, secret: str) -> sa.Insert:
    return tokens.insert().values(**token.model_dump(exclude={"scope"}), scopes=token.scope, digest=digest(secret))


def _valid(row: Any, credential: str) -> Principal:
    if row.revoked_at_s is not None:
        raise UnauthorizedError("Authorization", "the token was revoked.", "Ask for another one.")
    if row.expires_at_s is not None and row.expires_at_s < time.time():
        raise UnauthorizedError("Authorization", "the token has expired.", "Ask for another one.")
    return Principal(row.owner, row.scopes, row.project, credential, row.id, row.expires_at_s)


def _is_valid(now_s: float) -> tuple[sa.ColumnElement[bool], ...]:
    """The same as a condition."""
    return tokens.c.revoked_at_s.is_(None), sa.or_(tokens.c.expires_at_s.is_(None), tokens.c.expires_at_s >= now_s)
