"""Files of pages that lie elsewhere: plotly's script, and how the card of an answer looks in reports."""

from importlib.metadata import distribution
from typing import Literal

from fastapi import APIRouter
from fastapi.responses import FileResponse

from largebatch.service.api.pages.rendering import CARDS

router = APIRouter(include_in_schema=False)


@router.get("/static/card/{name}")
def card(name: Literal["card.css", "copies.js"]) -> FileResponse:
    """How a card looks, and what its buttons do, as in reports."""
    return FileResponse(str(CARDS / name), headers={"Cache-Control": "public, max-age=3600"})


@router.get("/static/plotly.js")
def plotly() -> FileResponse:
    """Plotly's own script, from the installed package."""
    path = distribution("plotly").locate_file("plotly/package_data/plotly.min.js")
    return FileResponse(str(path), media_type="text/javascript", headers={"Cache-Control": "public, max-age=86400"})
