"""A completions server with scripted behaviour, for tests of the client."""

import asyncio
import json
from contextlib import asynccontextmanager


def event(text=None, **more):
    body = {"choices": [] if text is None else [{"text": text}], **more}
    return f"data: {json.dumps(body)}\n\n".encode()


DONE = b"data: [DONE]\n\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


def refusal(status, message):
    body = json.dumps({"error": {"message": message}}).encode()
    return f"HTTP/1.1 {status} No\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


class FakeServer:
    """Answers each request by `script(body, write)`; keeps bodies, paths and ids in the order in which they came."""

    def __init__(self, script):
        self.script, self.open, self.most_open = script, 0, 0
        self.bodies, self.paths, self.ids, self.tasks = [], [], [], []

    @asynccontextmanager
    async def running(self):
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)
            await server.wait_closed()

    async def _serve(self, reader, writer):
        self.tasks.append(asyncio.current_task())
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(
            (
                int(line.split(":")[1])
                for line in head.split("\r\n")
                if line.lower().startswith("content-length")
            ),
            0,
        )
        body = json.loads(await reader.readexactly(length)) if length else {}
        self.bodies.append(body)
        self.paths.append(head.split()[1])
        self.ids.append(
            next(
                (
                    line[13:].strip()
                    for line in head.split("\r\n")
                    if line.lower().startswith("x-request-id:")
                ),
                None,
            )
        )
        body["id"] = self.ids[-1]  # as if the client had put it there
        self.open += 1
        self.most_open = max(self.most_open, self.open)

        async def write(data, delay_s=0.0):
            await asyncio.sleep(delay_s)
            writer.write(data)
            await writer.drain()

        try:
            await self.script(body, write)
        except ConnectionError:
            pass
        finally:
            self.open -= 1
            writer.close()
