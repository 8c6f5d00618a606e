"""A Hugging Face hub of one process: repositories of files by name, on a free port."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
Repositories = dict[str, dict[str, bytes]]


def _handler(repositories: Repositories) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            parts = unquote(urlsplit(self.path).path).strip("/").split("/")
            listing = parts[:2] == ["api", "models"]
            owner, name, _, revision, *rest = parts[2:] if listing else parts
            files = repositories.get(f"{owner}/{name}")
            if files is None:
                return self._send(404, b"", {"X-Error-Code": "RepoNotFound"}, body)
            if revision not in ("main", COMMIT, "v1"):
                return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"}, body)
            if listing:
                entries = [{"type": "file", "path": f, "size": len(d), "oid": "0"} for f, d in files.items()]
                return self._send(200, json.dumps(entries).encode(), {"Content-Type": "application/json"}, body)
            data = files.get("/".join(rest))
            if data is None:
                return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, body)
            etag = f'"{hashlib.sha256(data).hexdigest()}"'
            return self._send(200, data, {"X-Repo-Commit": COMMIT, "ETag": etag}, body)

        def _send(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextmanager
def serve(repositories: Repositories) -> Iterator[str]:
    """The hub's address, while it runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(repositories))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
