"""What pages load besides their own text: styles, scripts, the icon.

Their addresses have a digest of all of them, so a browser keeps each until a new version of the program has others.
"""

import hashlib
import mimetypes
from functools import cache
from importlib.metadata import distribution, version
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from largebatch.service.api.pages.rendering import CARDS, HERE, templates

PLOTLY = "plotly.js"
"""From the installed package."""
OWN = {path.name: path for path in sorted((HERE / "static").iterdir()) if path.is_file()} | {
    f"card/{name}": CARDS / name
    for name in ("card.css", "copies.js")  # how a card looks, and what its buttons do, as in reports
}
DIGEST = hashlib.sha256(b"".join([*(path.read_bytes() for path in OWN.values()), version("plotly").encode()])).hexdigest()[:16]
KEEP = "public, max-age=31536000, immutable"
templates.env.globals["static"] = f"/static/{DIGEST}"

router = APIRouter(include_in_schema=False)


@router.api_route("/static/{digest}/{name:path}", methods=["GET", "HEAD"])
async def asset(digest: str, name: str) -> Response:
    """One file. A page of another version, while replicas are replaced one by one, gets this one's, and keeps it no longer than it is open."""
    if name not in OWN and name != PLOTLY:
        raise HTTPException(404)
    headers = {"Cache-Control": KEEP if digest == DIGEST else "no-store"}
    return Response(_contents(name), media_type=mimetypes.guess_type(name)[0], headers=headers)


@cache
def _contents(name: str) -> bytes:
    path = Path(str(distribution("plotly").locate_file("plotly/package_data/plotly.min.js"))) if name == PLOTLY else OWN[name]
    return path.read_bytes()
