"""The process of the service: logs, the socket, and an end in good order."""

import gc
import logging
import signal
import socket
import sys
from typing import Any

import structlog
import uvicorn

from largebatch.jobs.errors import InputError
from largebatch.service.api.app import make_app
from largebatch.service.api.dependencies import make_dependencies
from largebatch.service.present.views import refuse_unless_public
from largebatch.service.settings import Settings

GRACE_S = 10


def serve(settings: Settings) -> None:
    """Answer until SIGTERM or Ctrl-C; jobs go on without the service. Raises: InputError, DatabaseError."""
    _log_to_stderr(settings.log_json)
    if settings.store is not None and settings.ray_address is None:
        raise InputError("--runs-dir", "this machine's own jobs need a folder of this machine.", "Give a folder, or --ray-address.")
    for option, address in (("--mlflow-url", settings.mlflow_url), ("--ray-dashboard-url", settings.ray_dashboard_url)):
        if address is not None:
            refuse_unless_public(option, address)
    deps = make_dependencies(settings)
    if not settings.is_loopback and not deps.tokens.all():
        raise InputError(
            "--host", f"{settings.host} is reached by others, and there is no token yet.", "First: largebatch token create OWNER --scope admin"
        )
    listener = _listen(settings)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    where = "this machine's own cores" if settings.ray_address is None else f"Ray at {settings.ray_address}"
    print(
        f"largebatch serves http://{host}:{listener.getsockname()[1]} and runs jobs on {where}. Ctrl-C ends it; jobs go on.",
        file=sys.stderr,
        flush=True,
    )
    app = make_app(deps)
    # A look of the garbage collector through a whole program stops every request for a fifth of a second; what is there by now stays.
    gc.collect()
    gc.freeze()
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=GRACE_S, server_header=False, date_header=True)
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises it again when all is done; it was answered then
    server.run(sockets=[listener])


def _listen(settings: Settings) -> socket.socket:
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        raise InputError(
            "--port", f"{settings.host}:{settings.port} cannot be listened on ({error.strerror or error}).", "Give another --port."
        ) from error
    listener.set_inheritable(False)
    return listener


def _log_to_stderr(as_json: bool) -> None:
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper("iso", utc=True),
    ]
    writer = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, writer] if as_json else [*shared, writer],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
