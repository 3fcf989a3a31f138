"""Turns text into token files that language models train on: `largebatch tokens`."""

import json
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from largebatch.jobs.data.make_tokens import byte_tokenizer, file_tokenizer, make_tokens
from largebatch.jobs.streams import print_answer
from largebatch.service.cli.options import AsJson
from largebatch.service.cli.tables import output
from largebatch.tuning.results.phrases import counted

app = typer.Typer()
BYTES = "bytes"
EVERY_S = 10.0
"""Between two lines of progress where there is no terminal."""


@app.command(epilog="Example: largebatch tokens books/*.txt --output data/books")
def tokens(
    files: Annotated[list[Path], typer.Argument(help='Text files, each one document; .jsonl: the "text" of each line.', metavar="FILE...")],
    into: Annotated[Path, typer.Option("--output", help="The folder to make; a recipe names it below its data folder.", metavar="DIR")],
    tokenizer: Annotated[str, typer.Option(help="bytes, or a tokenizer.json of the tokenizers library.")] = BYTES,
    test_fraction: Annotated[float, typer.Option(help="Of the tokens, how many at the end are the test set's.")] = 0.1,
    separator: Annotated[str | None, typer.Option(help="A text that ends a document within a file, such as <|endoftext|>.")] = None,
    as_json: AsJson = False,
) -> None:
    """Turn text into token files that language models train on; what was interrupted goes on where it stopped."""
    chosen = byte_tokenizer() if tokenizer == BYTES else file_tokenizer(Path(tokenizer))
    columns = (TextColumn("tokens"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=output(), transient=True, disable=as_json) as progress:
        task = progress.add_task("tokens", total=None)
        tell = partial(progress.update, task) if output().is_terminal else _Lines()
        facts = make_tokens(
            files,
            into,
            chosen,
            test_fraction=test_fraction,
            separator=separator,
            on_progress=lambda done, total: tell(completed=done, total=total),
            on_notice=lambda text: typer.echo(text, err=True),
        )
    if as_json:
        print_answer(json.dumps({"folder": str(into), **facts.model_dump()}))
        return
    num_test = facts.num_tokens - facts.test_start
    documents, vocabulary = counted(facts.num_documents, "document"), f"a vocabulary of {facts.vocabulary_size:,}"
    output().print(f"{into}: {facts.num_tokens:,} tokens of {vocabulary}, in {documents}; the last {num_test:,} tokens are the test set's.")


class _Lines:
    """Progress as lines on standard error, a few a minute."""

    def __init__(self) -> None:
        self._next = time.monotonic() + EVERY_S

    def __call__(self, completed: float, total: float) -> None:
        if time.monotonic() >= self._next:
            self._next += EVERY_S
            typer.echo(f"tokens: {completed / 1e6:,.0f} of {total / 1e6:,.0f} MB", err=True)
