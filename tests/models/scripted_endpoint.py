"""A real HTTP server in this process that answers what a test says."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Reply:
    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Received:
    path: str
    body: Mapping[str, Any]
    headers: Mapping[str, str]


@dataclass
class Script:
    """What the server is to say, and what it heard."""

    answer: Callable[[Received], Reply]
    url: str = ""
    received: list[Received] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    # The standard library's 5 drops connections that come at once.
    request_queue_size = 128


@contextmanager
def serve(answer: Callable[[Received], Reply]):
    """Serve on a free port of this machine; yields the script, its `url` ending in /v1."""
    script = Script(answer=answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            received = Received(
                path=self.path, body=body, headers={k.lower(): v for k, v in self.headers.items()}
            )
            with script.lock:
                script.received.append(received)
                script.under_way += 1
                script.most_under_way = max(script.most_under_way, script.under_way)
            try:
                reply = script.answer(received)
                time.sleep(reply.delay_seconds)
                self.respond(reply)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
            finally:
                with script.lock:
                    script.under_way -= 1

        def respond(self, reply):
            raw = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *words):
            pass

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    script.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def chat_reply(text, *, finish="stop", tokens=3, prompt_tokens=5, **message):
    return Reply(
        body={
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text, **message},
                    "finish_reason": finish,
                }
            ],
            "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": tokens},
        }
    )


def completion_reply(text, *, finish="stop", tokens=3, prompt_tokens=5, logprobs=None):
    return Reply(
        body={
            "choices": [{"index": 0, "text": text, "finish_reason": finish, "logprobs": logprobs}],
            "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": tokens},
        }
    )
