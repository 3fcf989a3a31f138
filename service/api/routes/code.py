"""/v1/code: bundles of people's own code, which jobs run; where the operator allows it."""

import tempfile
from typing import Any, BinaryIO

from fastapi import APIRouter, Request, Response

from largebatch.service.api.auth import Who
from largebatch.service.api.dependencies import Dependencies, Deps
from largebatch.service.api.errors import ERRORS
from largebatch.service.api.requests import refuse_code
from largebatch.service.bundle import LARGEST_BYTES
from largebatch.service.db.bundles import CodeBundle
from largebatch.service.db.tokens import Principal

router = APIRouter(prefix="/v1/code", tags=["code"], responses=ERRORS)
BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
BODY: dict[str, Any] = {"requestBody": {"required": True, "description": "A zip file.", "content": BYTES}}


def kept(deps: Dependencies, file: BinaryIO, who: Principal) -> CodeBundle:
    """Keep a zip that somebody sent. Raises: InputError, ConflictError."""
    file.seek(0)
    return deps.bundles.keep(file.read(LARGEST_BYTES + 1), who.owner)


@router.post("", status_code=201, operation_id="send_code", openapi_extra=BODY)
async def send(request: Request, deps: Deps, who: Who) -> CodeBundle:
    """Keep a zip of own code, once however often it is sent; a job names it by its `sha256`."""
    who.require("submit")
    refuse_code(deps.settings)
    with tempfile.TemporaryFile() as file:  # many at a time are more than memory should hold
        async for piece in request.stream():
            file.write(piece)
        return await deps.write(lambda: kept(deps, file, who))


@router.get("", operation_id="list_code")
def list_code(deps: Deps, who: Who) -> list[CodeBundle]:
    """One's own bundles, for an administrator everybody's; the newest first."""
    return deps.bundles.all(None if who.may("admin") else who.owner)


@router.get("/{sha256}", operation_id="show_code")
def show(sha256: str, deps: Deps, who: Who) -> CodeBundle:
    """One bundle, with the names of all its files."""
    return deps.bundle(sha256, who)


@router.get("/{sha256}/zip", operation_id="download_code", response_class=Response, responses={200: {"content": BYTES}})
def download(sha256: str, deps: Deps, who: Who) -> Response:
    """The zip itself, as it was sent."""
    bundle = deps.bundle(sha256, who)
    headers = {"Content-Disposition": f'attachment; filename="{bundle.sha256[:12]}.zip"'}
    return Response(deps.bundles.content(bundle.sha256), headers=headers, media_type="application/octet-stream")


@router.delete("/{sha256}", status_code=204, operation_id="delete_code")
def delete(sha256: str, deps: Deps, who: Who) -> Response:
    """Forget a bundle that no job uses; an administrator for all who sent it."""
    remove(deps, sha256, who)
    return Response(status_code=204)


def remove(deps: Dependencies, sha256: str, who: Principal) -> None:
    """See `delete`. Raises: NotFoundError, ConflictError, ForbiddenError."""
    who.require("submit")
    deps.bundles.remove(deps.bundle(sha256, who).sha256, None if who.may("admin") else who.owner)
