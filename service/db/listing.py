"""What lists of jobs are filtered and sorted by: one grammar for REST, the page and the command, and the statements that it becomes."""

import json
import operator as operators
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa

from largebatch.jobs.errors import InputError, nearest
from largebatch.service.db.tables import jobs

BRIEF = [column for column in jobs.c if column.name not in {"spec", "base", "summary"}]
"""What lists and watchers need of a row: the rest is most of its bytes."""
_AS_TEXT = [sa.cast(column, sa.Text).label(column.name) if isinstance(column.type, sa.JSON) else column for column in BRIEF]
_NAMES = [column.name for column in BRIEF]
_JSON_NAMES = [column.name for column in BRIEF if isinstance(column.type, sa.JSON)]
BriefRow = tuple[Any, ...]
"""`BRIEF` of one job, with JSON as the text that the database keeps: everything in it can be held against another row's."""
TEXTS: dict[str, sa.ColumnElement[Any]] = {
    name: jobs.c[name] for name in ("name", "owner", "project", "recipe", "state", "outcome", "optimizer", "device")
}
NUMBERS: dict[str, sa.ColumnElement[Any]] = {
    "batch": sa.func.coalesce(jobs.c.global_batch_size, jobs.c.progress["global_batch_size"].as_float()),
    "rate": jobs.c.learning_rate, "momentum": jobs.c.momentum, "seed": jobs.c.seed, "priority": jobs.c.priority,
    "score": jobs.c.progress["score"].as_float(), "steps": jobs.c.progress["step"].as_float(),
    "training": jobs.c.progress["training_seconds"].as_float(), "duration": jobs.c.ended_at_s - jobs.c.started_at_s,
}  # fmt: skip
CREATED = "created_at"
_TIME = (jobs.c.created_at_s, jobs.c.id)
SORTS = [f"{sign}{name}" for name in (CREATED, *TEXTS, *NUMBERS) for sign in ("-", "")]
FIELDS = (*TEXTS, *NUMBERS, "tag")
CONDITION = re.compile(r"([a-z_]+)(>=|<=|!=|=|>|<)(.+)", re.DOTALL)
SPACED = re.compile(rf"\b({'|'.join(FIELDS)})\s*(>=|<=|!=|=|>|<)\s*(?=\S)")
"""A field and a sign, maybe apart."""
HINT = "Examples: batch>=256, optimizer=lamb, tag=paper."
_COMPARED: dict[str, Callable[[sa.ColumnElement[Any], Any], sa.ColumnElement[bool]]] = {
    "=": operators.eq, ">=": operators.ge, "<=": operators.le, ">": operators.gt, "<": operators.lt,
    "!=": lambda column, value: column.is_distinct_from(value),
}  # fmt: skip


class Sight(NamedTuple):
    """Whose jobs somebody sees: their own, and those of their project where they are shared."""

    owner: str
    project: str | None = None

    @property
    def columns(self) -> dict[str, str]:
        """Those of a job of which one must be so."""
        return {"owner": self.owner} if self.project is None else {"owner": self.owner, "project": self.project}


class Condition(NamedTuple):
    """One field held against a value."""

    field: str
    operator: str
    value: str | float


def read_condition(text: str) -> Condition:
    """A condition as people write it: `batch>=256`. Raises: InputError."""
    parts = CONDITION.fullmatch(text.strip())
    if parts is None:
        raise InputError("where", f"{text[:100]!r} is no condition.", HINT)
    field, operator, value = parts[1], parts[2], parts[3].strip()
    if field not in FIELDS:
        raise InputError("where", f"{field[:100]!r} is no field of a job that lists know.", nearest(field, FIELDS))
    if field not in NUMBERS:
        if operator not in {"=", "!="}:
            raise InputError("where", f"{field} is text, and has no order.", f"Use {field}=... or {field}!=...")
        return Condition(field, operator, value)
    with suppress(ValueError):
        if abs(number := float(value)) <= 1e300:  # neither NaN nor infinity is
            return Condition(field, operator, number)
    raise InputError("where", f"{field} is a number, and {value[:100]!r} is none.", HINT)


def read_search(text: str) -> tuple[list[str], str]:
    """What somebody typed into a search box: its words that are conditions, also with spaces about their sign, and the rest."""
    words = SPACED.sub(r"\1\2", text).split()
    conditions = [word for word in words if (parts := CONDITION.fullmatch(word)) and parts[1] in FIELDS]
    return conditions, " ".join(word for word in words if word not in conditions)


def is_by_time(sort: str) -> bool:
    """Whether a list is sorted by when its jobs were asked for. Raises: InputError for a field that nothing is sorted by."""
    if sort not in SORTS:
        raise InputError("sort", f"{sort[:100]!r} is nothing that lists are sorted by.", nearest(sort, SORTS))
    return sort.removeprefix("-") == CREATED


class Question(NamedTuple):
    """What a statement is made for once: making it takes almost as long as running it."""

    equal: tuple[str, ...]
    """Columns that are held against a parameter of their name."""
    seen_by: tuple[str, ...]
    """Columns of which one must be as the parameter `seen_by_` and its name say; empty: everybody's jobs are listed."""

    @property
    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """The same for a statement."""
        equal = [jobs.c[name] == sa.bindparam(name) for name in self.equal]
        seen = [jobs.c[name] == sa.bindparam(f"seen_by_{name}") for name in self.seen_by]
        return [*equal, sa.or_(*seen)] if seen else equal


@cache
def counting(question: Question) -> sa.Select[Any]:
    """How many jobs there are."""
    return sa.select(sa.func.count()).select_from(jobs).where(*question.conditions)


@cache
def listing(question: Question, goes_on: bool, sort: str) -> sa.Select[Any]:
    """A page's statement by time, and of its ids alone by anything else: see `shown`."""
    by_time, most = is_by_time(sort), sa.bindparam("most", type_=sa.Integer)
    statement = sa.select(*(_AS_TEXT if by_time else (jobs.c.id,))).where(*question.conditions).order_by(*_order(sort)).limit(most)
    if not by_time:
        return statement.offset(sa.bindparam("skipped", type_=sa.Integer))
    if goes_on:
        position, begins = sa.tuple_(*_TIME), sa.tuple_(sa.bindparam("at_s", type_=sa.Float), sa.bindparam("after", type_=sa.String))
        statement = statement.where(position < begins if sort.startswith("-") else position > begins)
    return statement


def shown(statement: sa.Select[Any], sort: str) -> sa.Select[Any]:
    """What a page shows of the jobs of a `listing`, narrowed or not.

    A list by anything but time is sorted by looking at every job, and twice as fast where ids alone are carried along.
    """
    if is_by_time(sort):
        return statement
    return sa.select(*_AS_TEXT).where(jobs.c.id.in_(statement)).order_by(*_order(sort))


def _order(sort: str) -> list[sa.ColumnElement[Any]]:
    falls = sort.startswith("-")
    if is_by_time(sort):
        return [column.desc() if falls else column for column in _TIME]
    by = (TEXTS | NUMBERS)[sort.removeprefix("-")]
    return [(by.desc() if falls else by.asc()).nulls_last(), *(column.desc() for column in _TIME)]


def columns_of(row: BriefRow) -> dict[str, Any]:
    """A row's values by column."""
    columns = dict(zip(_NAMES, row, strict=True))
    return {**columns, **{name: json.loads(columns[name]) for name in _JSON_NAMES}}


def narrowed(statement: sa.Select[Any], conditions: Sequence[Condition], text: str | None) -> sa.Select[Any]:
    """The same statement for fewer jobs; itself where nothing is asked. Args: text: part of an id, a name or the notes."""
    if conditions:
        statement = statement.where(*(_holds(condition) for condition in conditions))
    if text:
        statement = statement.where(sa.or_(*(column.icontains(text, autoescape=True) for column in (jobs.c.id, jobs.c.name, jobs.c.notes))))
    return statement


def _holds(condition: Condition) -> sa.ColumnElement[bool]:
    field, operator, value = condition
    if field == "tag":  # the database keeps the list as JSON's text
        has = sa.cast(jobs.c.tags, sa.Text).contains(json.dumps(value), autoescape=True)
        return has if operator == "=" else ~has
    compared: sa.ColumnElement[bool] = _COMPARED[operator]((TEXTS | NUMBERS)[field], value)
    return compared
