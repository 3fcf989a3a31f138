"""Routes whose JSON bodies hold every key once, as recipes do: `json` itself would take the last of two."""

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from largebatch.jobs.spec.text import each_key_once


class StrictRequest(Request):
    """A request that refuses a body in which a key is given twice."""

    async def json(self) -> Any:
        """The body's value. Raises: json.JSONDecodeError."""
        body = (await self.body()).decode("utf-8", "replace")
        try:
            return json.loads(body, object_pairs_hook=each_key_once)
        except json.JSONDecodeError:
            raise
        except (ValueError, RecursionError) as error:
            raise json.JSONDecodeError(str(error), body, 0) from error


class StrictRoute(APIRoute):
    """A route that hands `StrictRequest`s on."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See `fastapi.routing.APIRoute`."""
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            try:
                return await handle(StrictRequest(request.scope, request.receive))
            except RequestValidationError:
                if asker := getattr(request.state, "asker", None):  # who may not ask is told that, and not what is wrong with the request
                    await asker.found()
                raise

        return handle_strictly
