"""The local web server of an audit, on aiohttp.

GET  /<token>/                          the page, with the texts of all questions
GET  /<token>/answers?rater=            what stands of a rater's answers
GET  /<token>/outlines/<id>?rater=      a question comes in view: its outlines, none before a blind click
GET  /<token>/pictures/<image>.jpg      a picture
POST /<token>/answer?rater=             a line of `verdict_lines`; answered when it is on disk
POST /<token>/click?rater=              a blind click; answered when it is on disk
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from typing import Annotated, Final

from aiohttp import web
from pydantic import Field, TypeAdapter, ValidationError

from pseudoris.audit.verdict_lines import Answer, Point
from pseudoris.audit.web.page import judging_page
from pseudoris.audit.web.pictures import Pictures
from pseudoris.audit.web.questions import Questions
from pseudoris.audit.web.raters import Raters
from pseudoris.audit.web.server_guard import guard
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.frozen import FrozenModel

HOST: Final = "127.0.0.1"
_ANSWERS: Final[TypeAdapter[Answer]] = TypeAdapter(Annotated[Answer, Field(discriminator="line")])
# A page that waits for an answer must not hold up Ctrl-C.
_SHUTDOWN_S: Final = 2.0


class _Click(FrozenModel):
    pair: str
    click: Point | None


class JudgingServer:
    """Answers the requests of the raters' pages."""

    def __init__(self, questions: Questions, raters: Raters, pictures: Pictures) -> None:
        """Make the page."""
        self._raters = raters
        self._pictures = pictures
        self._page = judging_page(questions.plan(), is_static=False)

    def application(self, token: str) -> web.Application:
        """Return the aiohttp application; every address begins with the token."""
        application = web.Application(middlewares=[guard(token), _told])  # type: ignore[list-item]
        application.add_routes(
            [
                web.get("/{token}/", self._get_page),
                web.get("/{token}/answers", self._get_answers),
                web.get("/{token}/outlines/{question}", self._get_outlines),
                web.get("/{token}/pictures/{image}.jpg", self._get_picture),
                web.post("/{token}/answer", self._post_answer),
                web.post("/{token}/click", self._post_click),
            ]
        )
        return application

    async def _get_page(self, request: web.Request) -> web.Response:
        del request
        return web.Response(text=self._page, content_type="text/html")

    async def _get_answers(self, request: web.Request) -> web.Response:
        return web.json_response(self._raters.open(_rater(request)))

    async def _get_outlines(self, request: web.Request) -> web.Response:
        found = self._raters.look(_rater(request), request.match_info["question"])
        if found is None:
            raise web.HTTPNotFound
        return web.json_response(found)

    async def _get_picture(self, request: web.Request) -> web.Response:
        # Decoding takes a while, and other raters wait for nothing else.
        picture = await asyncio.to_thread(self._pictures.jpeg, request.match_info["image"])
        if picture is None:
            raise web.HTTPNotFound
        return web.Response(body=picture, content_type="image/jpeg")

    async def _post_answer(self, request: web.Request) -> web.Response:
        answer = _ANSWERS.validate_json(await request.read())
        # In the event loop on purpose: one file, one line after the other.
        return web.json_response({"taken": self._raters.record(_rater(request), answer)})

    async def _post_click(self, request: web.Request) -> web.Response:
        click = _Click.model_validate_json(await request.read())
        self._raters.keep_click(_rater(request), click.pair, click.click)
        return web.json_response({})


@web.middleware
async def _told(request: web.Request, handler: Callable[[web.Request], object]) -> web.StreamResponse:
    """Tell the page what is wrong with a request, in words."""
    try:
        response = await handler(request)  # type: ignore[misc]
    except web.HTTPException as error:
        return web.json_response({"error": error.reason}, status=error.status)
    except ValidationError:
        return web.json_response({"error": "The answer is malformed."}, status=400)
    except ConfigError as error:
        return web.json_response({"error": str(error)}, status=409)
    return response  # type: ignore[no-any-return]


def _rater(request: web.Request) -> str:
    return request.query.get("rater", "")


def listening_socket(port: int) -> socket.socket:
    """Return a socket that listens on this machine's loopback; port 0 takes a free one.

    Raises:
        ConfigError: The port is taken.
    """
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise ConfigError(
            f"--port {port} cannot be listened on ({error.strerror or error}). Name another port, or 0 for a free one"
        ) from error


async def serve(application: web.Application, listening: socket.socket, on_ready: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM; `on_ready` is called when requests are answered."""
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        await web.SockSite(runner, listening).start()
        on_ready()
        await stop.wait()
    finally:
        await runner.cleanup()
