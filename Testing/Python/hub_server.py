"""A server on this machine that speaks as much of the Hugging Face hub's language as a download needs."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_LARGE = 100_000
_BLOCK = 65536


class Hub:
    """One repository, ``Qwen/tiny``, with the files of a folder.

    ``drops`` counts the connections that break in the middle of a large file, ``stalls`` says that a large file stops in its middle until
    it is unset, ``refused`` is a status and an error code for all requests, ``changed`` names a file whose content is not the listed one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: list[tuple[str, str | None]] = []
        self.sent = 0
        self.drops = 0
        self.stalls = threading.Event()
        self.refused: tuple[int, str] | None = None
        self.changed = ""
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self.stalls.clear()
        self._server.shutdown()
        self._server.server_close()

    def listed(self) -> dict:
        siblings = [{"rfilename": "pytorch_model.bin", "size": 10**15, "blobId": "0" * 40}]
        for path in sorted(self.folder.iterdir()):
            content = path.read_bytes()
            name = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
            entry: dict = {"rfilename": path.name, "size": len(content), "blobId": name}
            if len(content) > _LARGE:
                entry["lfs"] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "pointerSize": 134}
            siblings.append(entry)
        return {"id": "Qwen/tiny", "sha": COMMIT, "siblings": siblings}


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.hub.requests.append((path, self.headers.get("Range")))
        if self.hub.refused is not None:
            self._refuse(*self.hub.refused)
        elif path == "/api/models/Qwen/tiny/revision/main":
            self._send(json.dumps(self.hub.listed()).encode())
        elif path.startswith("/api/models/Qwen/tiny/revision/"):
            self._refuse(404, "RevisionNotFound")
        elif path.startswith(f"/Qwen/tiny/resolve/{COMMIT}/"):
            self._file(self.hub.folder / path.rsplit("/", 1)[1])
        else:
            self._refuse(404, "RepoNotFound")

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _file(self, path: Path) -> None:
        content = path.read_bytes()
        if path.name == self.hub.changed:
            content = content[:-1] + bytes([content[-1] ^ 1])
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        first = int(asked[1]) if asked else 0
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        middle = first + 2 * (len(content) - first) // 3
        try:
            for start in range(first, len(content), _BLOCK):
                if len(content) > _LARGE and start > middle:
                    if self.hub.drops > 0:
                        self.hub.drops -= 1
                        self.close_connection = True
                        return
                    while self.hub.stalls.is_set():
                        time.sleep(0.02)
                block = content[start : start + _BLOCK]
                self.wfile.write(block)
                self.hub.sent += len(block)
        except OSError:
            self.close_connection = True
