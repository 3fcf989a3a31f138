"""POST /v1/runs/add: a run that was trained elsewhere, kept and shown like those that the service ran."""

import contextlib
import hashlib
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.datastructures import FormData, UploadFile

from largebatch.jobs.errors import InputError
from largebatch.jobs.whole_files import storage_errors
from largebatch.service.added_run import HINT, LARGEST_BYTES, PART, refuse_file, refuse_missing
from largebatch.service.api.added.as_job import job_of
from largebatch.service.api.auth import Who
from largebatch.service.api.dependencies import Dependencies, Deps
from largebatch.service.api.errors import ERRORS
from largebatch.service.db.store import ConflictError
from largebatch.service.db.tokens import Principal
from largebatch.service.job import Job
from largebatch.service.present.views import JobView

router = APIRouter(prefix="/v1/runs", tags=["runs"], responses=ERRORS)
FILE = {"type": "string", "format": "binary"}
SCHEMA: dict[str, Any] = {
    "type": "object", "title": "AddedRun", "required": [PART],
    "properties": {PART: {"type": "array", "minItems": 2, "maxItems": len(LARGEST_BYTES), "items": FILE}},
}  # fmt: skip
DESCRIPTION = f"Files of a run's folder, each under its own name: {', '.join(LARGEST_BYTES)}."
BODY: dict[str, Any] = {"requestBody": {"required": True, "description": DESCRIPTION, "content": {"multipart/form-data": {"schema": SCHEMA}}}}
BEGUN = "adding-"
"""Begins the names of folders in which files arrive."""
FORGOTTEN_S = 3600.0
"""After which such a folder is one that a kill has left."""


@router.post("/add", status_code=201, operation_id="add_run", openapi_extra=BODY)
async def add(request: Request, deps: Deps, who: Who, response: Response) -> JobView:
    """Show a run that was trained elsewhere, ended or not, beside those of the service; the same files twice are one run.

    It is over: it cannot be resumed, and has no weights. Lines of its journal that are no records are passed over, as in every run's.
    """
    who.require("submit")
    async with request.form(max_files=len(LARGEST_BYTES), max_fields=0) as form:  # only now is the body read
        job, is_new = await deps.write(lambda: added(deps, form, who))
    response.headers["Location"] = f"/v1/runs/{job.id}"
    if not is_new:
        response.headers["Idempotent-Replayed"] = "true"
    return JobView.model_validate(job)


def added(deps: Dependencies, form: FormData, who: Principal) -> tuple[Job, bool]:
    """Keep a run's files and its job. Returns the job, and whether it is new.

    The folder comes before the row: a kill between them leaves what nobody sees, and what the same request takes up.
    Raises: InputError, ConflictError; StorageError.
    """
    for left in deps.settings.state_dir.glob(f"{BEGUN}*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > FORGOTTEN_S:
                shutil.rmtree(left, ignore_errors=True)
    with (
        storage_errors(Path("storage"), "Ask its operator for space."),
        tempfile.TemporaryDirectory(dir=deps.settings.state_dir, prefix=BEGUN) as begun,
    ):
        folder = Path(begun) / "run"
        folder.mkdir()
        digest, num_bytes = _written(form, folder, who.owner)
        job = job_of(folder, who.owner, digest, num_bytes)
        if deps.settings.sharing:
            job = job.model_copy(update={"project": who.project})
        earlier = deps.store.find(job.id)
        if earlier is None:
            is_moved = deps.run_folders.take(folder, job.id)
            try:
                return deps.store.add(job, deps.settings.max_added_bytes_per_owner, deps.settings.max_added_per_owner)
            except ConflictError:
                if is_moved:
                    deps.run_folders.remove(job.id)
                raise
    if earlier.owner != who.owner:
        raise ConflictError(PART, "another job has this run's name.", "Record it under another name.")
    return earlier, False


def _written(form: FormData, folder: Path, owner: str) -> tuple[str, int]:
    """Write the files that came into a folder. Returns their digest, which is their owner's alone, and their bytes. Raises: InputError."""
    files: dict[str, UploadFile] = {}
    for name, part in form.multi_items():
        if name != PART or not isinstance(part, UploadFile):
            raise InputError(name[:100], f"is not a file in a part called {PART}.", HINT)
        file = part.filename or ""
        refuse_file(file, part.size or 0)
        if file in files:
            raise InputError(PART, f"{file} comes twice.", HINT)
        files[file] = part
    refuse_missing(set(files))
    of_all = hashlib.sha256(owner.encode())
    for file in sorted(files):
        with (folder / file).open("wb") as target:
            shutil.copyfileobj(files[file].file, target)
        with (folder / file).open("rb") as written:
            of_all.update(f"\0{file}\0{hashlib.file_digest(written, 'sha256').hexdigest()}".encode())
    return of_all.hexdigest(), sum(files[file].size or 0 for file in files)
