"""Shows the card of an answer on a terminal, whole into a pipe."""

from rich.table import Table
from rich.text import Text

from largebatch.service.cli.tables import output
from largebatch.tuning.results.card.card import Card

COLOURS = {"sure": "green", "tied": "yellow", "unsure": "yellow"}


def print_card(card: Card | None) -> None:
    """The recommendation, a line for each thing that is said of it, and the command that trains it."""
    if card is None:
        return
    console = output()
    console.print(Text(card.title, style=f"bold {COLOURS[card.verdict]}"))
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for line in card.lines:
        table.add_row(Text(line.label, style="bold"), Text(line.text))
    console.print(table)
    if card.recipe is not None:
        console.print(Text.assemble(("  Train it: ", "bold"), card.recipe.command), soft_wrap=True)
    console.print()
