"""Own code that a job of a service takes along: packs a folder, sends it where the service has not got it, and says what went and what stays."""

import ast
import os
import sys
from pathlib import Path
from typing import Any

from largebatch.jobs.errors import InputError
from largebatch.service.backends.own_code import own_code
from largebatch.service.bundle import digest_of_bundle, is_digest, module_of, pack, references_in
from largebatch.service.client import Client, RemoteError

NOT_FOUND = 404


def bundle_of(client: Client, code: str, document: dict[str, Any]) -> str:
    """The SHA-256 of the bundle that a job takes along, which the service has then.

    Args: code: a folder, or the SHA-256 of a bundle that was sent before; document: the request, whose entry points say what goes along.
    Raises: InputError for what is no folder, or holds too much; RemoteError.
    """
    folder = Path(code)
    if is_digest(code) and not folder.exists():
        return code
    if not os.path.isdir(code):
        raise InputError("--code", f"{code[:200]!r} is no folder.", "Give the folder of your code, or the SHA-256 of a bundle that was sent before.")
    modules = set(map(module_of, references_in(document)))
    own = own_code(folder, modules)
    absent = ", ".join(sorted(modules - {path.parts[0].removesuffix(".py") for path in own.files}))
    if not modules:
        raise InputError("--code", "the recipe names no code of your own, by any entry_point.", "Name it, or leave --code out.")
    if absent == ", ".join(sorted(modules)):
        raise InputError("--code", f"{folder} holds nothing of what is named: {absent}.", "Give the folder in which your module lies.")
    for path in own.files:
        if path.suffix == ".py" and path.parts[0].removesuffix(".py") in modules:
            _refuse_unreadable(folder, path)
    packed = pack(folder, own.files)
    digest = digest_of_bundle(packed)
    is_new = not _is_there(client, digest)
    if is_new:
        client.request("POST", "/v1/code", content=packed, headers={"Content-Type": "application/octet-stream"})
    files = f"{len(own.files)} file{'s' * (len(own.files) != 1)}, {len(packed) / 2**10:.1f} KiB packed"
    print(f"Code: {files}, {digest[:12]}, {'sent' if is_new else 'there already'}.", file=sys.stderr)
    if own.left_out:
        print(own.sentence(), file=sys.stderr)
    if absent:
        print(f"Not in {folder}: {absent}. The job looks for it among what is installed.", file=sys.stderr)
    return digest


def _refuse_unreadable(folder: Path, path: Path) -> None:
    """Raises: InputError for Python that is none, which the job would say when its turn has come."""
    try:
        ast.parse((folder / path).read_bytes())
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        where = f"{path}, line {line}" if line else str(path)
        raise InputError("--code", f"{where}, is no Python: {getattr(error, 'msg', error)}.", "Mend it, then send it again.") from error


def _is_there(client: Client, digest: str) -> bool:
    """Whether the asker has sent this bundle before; one of somebody else's is not theirs to use."""
    try:
        bundle = client.request("GET", f"/v1/code/{digest}")
    except RemoteError as error:
        if error.status == NOT_FOUND:
            return False
        raise
    return client.request("GET", "/v1/me")["owner"] in bundle["owners"]
