"""An HTTP server that answers as a test says, in place of an OpenSearch that misbehaves."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from dataclasses import dataclass, field
from typing import Any

import orjson


@dataclass(frozen=True)
class Answer:
    body: Any = None
    """JSON, or bytes as they are."""
    status: int = 200
    how: str = "answer"
    """answer | reset: break the connection off | hang: never answer"""
    content_type: str = "application/json"


RESET, HANG = Answer(how="reset"), Answer(how="hang")


@dataclass
class Stub:
    """`async with Stub(Answer(…)) as stub: … stub.url`; the last of the answers is given again and again."""

    answers: list[Answer]
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    """(method and path, headers, body) of all that was asked."""
    secure: ssl.SSLContext | None = None

    async def __aenter__(self) -> Stub:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.secure)
        self.port = int(self._server.sockets[0].getsockname()[1])
        self.url = f"{'https' if self.secure else 'http'}://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await self._answer(head.decode(), reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        sent = await reader.readexactly(int(headers.get("content-length", "0")))
        self.requests.append((first.rsplit(" ", 1)[0], headers, sent))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer.how == "hang":
            await reader.read()
            raise ConnectionResetError
        if answer.how == "reset":
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raise ConnectionResetError
        body = answer.body if isinstance(answer.body, bytes) else orjson.dumps(answer.body)
        told = (
            f"HTTP/1.1 {answer.status} .\r\ncontent-type: {answer.content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        writer.write(told.encode() + body)
        await writer.drain()
