"""A job's files: what its attempts printed, and what lies in its folder."""

import mimetypes
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import FileResponse, PlainTextResponse

from largebatch.service.api.auth import Who
from largebatch.service.api.dependencies import Deps
from largebatch.service.api.errors import NotFoundError
from largebatch.service.job import Kind
from largebatch.service.present.run_files import Artifact, files_in, is_shown

LOG_BYTES = 1 << 20
Attempt = Annotated[int | None, Query(ge=1, le=1_000_000)]
Offset = Annotated[int, Query(ge=0, le=1 << 50)]
"""A byte of a file."""


def named(name: str, kind: Kind) -> dict[str, Any]:
    """A route's name, which carries the kind, for generated clients."""
    return {"operation_id": f"{name}_{kind}", "name": f"{name}_{kind}"}


def add_file_routes(router: APIRouter, kind: Kind) -> None:
    """The files and the printed lines of runs or sweeps."""

    @router.get("/{job_id}/logs", response_class=PlainTextResponse, **named("logs", kind))
    def logs(job_id: str, deps: Deps, who: Who, attempt: Attempt = None, offset: Offset = 0) -> PlainTextResponse:
        """What an attempt printed, at most 1 MiB from a byte on; default the newest attempt."""
        job = deps.visible(job_id, kind, who)
        if job.added_bytes is not None:  # no attempt of it was here
            return PlainTextResponse("", headers={"X-Next-Offset": str(offset)})
        printed = deps.backend.logs(job, attempt or job.attempt, offset, LOG_BYTES)
        return PlainTextResponse(printed.decode(errors="replace"), headers={"X-Next-Offset": str(offset + len(printed))})

    @router.get("/{job_id}/artifacts", **named("artifacts", kind))
    def artifacts(job_id: str, deps: Deps, who: Who) -> list[Artifact]:
        """The files of the job's folder, checkpoints left out."""
        return files_in(deps.folder(deps.visible(job_id, kind, who)))

    @router.get("/{job_id}/artifacts/{path:path}", response_class=FileResponse, **named("artifact", kind))
    def artifact(job_id: str, path: str, deps: Deps, who: Who) -> FileResponse:
        """One file of the job's folder."""
        folder = deps.folder(deps.visible(job_id, kind, who)).resolve()
        return confined(folder, path)


def confined(folder: Path, path: str) -> FileResponse:
    """A file inside a folder, links followed. Raises: NotFoundError."""
    try:
        file = (folder / path).resolve()
        is_there = file.is_relative_to(folder) and file.is_file() and is_shown(file.relative_to(folder))
    except (OSError, ValueError):
        is_there = False
    if not is_there:
        raise NotFoundError("path", f"there is no such file: {path[:200]!r}.")
    kind, _ = mimetypes.guess_type(file.name)
    # What a job wrote is shown as a file, never as a page of ours.
    headers = {"Content-Security-Policy": "sandbox allow-scripts", "X-Content-Type-Options": "nosniff"}
    return FileResponse(file, media_type=kind or "application/octet-stream", headers=headers)
