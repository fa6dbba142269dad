"""A stand-in for the Hugging Face Hub on this machine: as much of its protocol as `huggingface_hub` asks for here."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

TOKEN = "hf_test"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Keeps repositories in memory: name -> path -> bytes. Writing needs TOKEN; so does reading of `gated`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.private: set[str] = set()
        self.objects: dict[str, bytes] = {}  # of LFS, by SHA-256
        self.asked: list[str] = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Return the environment of a process that takes this server for the Hub, with a cache of its own."""
        names = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        return {**kept, **names, **more}


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._read()

    def do_GET(self) -> None:
        self._read()

    def _read(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(path)
        parts = path.strip("/").split("/")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        if name not in self.server.repositories:
            self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif name in self.server.gated and not self._is_known():
            self._answer(403, {"error": "Access is restricted"}, {"X-Error-Code": "GatedRepo"})
        elif parts[0] == "api":
            self._info(name, parts[4:])
        else:
            self._file(name, revision=parts[3], path="/".join(parts[4:]))

    def _info(self, name: str, rest: list[str]) -> None:
        files = self.server.repositories[name]
        if len(rest) > 1 and rest[1] not in ("main", COMMIT):
            self._answer(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        elif rest[:1] == ["tree"]:
            entries = [
                {"type": "file", "path": path, "size": len(data), "oid": _oid(data)} for path, data in files.items()
            ]
            self._answer(200, entries)
        else:
            siblings = [{"rfilename": path} for path in files]
            private = name in self.server.private
            self._answer(200, {"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings, "private": private})

    def _file(self, name: str, revision: str, path: str) -> None:
        data = self.server.repositories[name].get(path)
        if revision not in ("main", COMMIT):
            self._answer(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        elif data is None:
            self._answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        else:
            self._answer(200, data, {"X-Repo-Commit": COMMIT, "ETag": f'"{_oid(data)}"'})

    def do_PUT(self) -> None:
        self.server.objects[self.path.rpartition("/")[2]] = self._body()
        self._answer(200, {})

    def do_POST(self) -> None:
        path, body = urlsplit(self.path).path, self._body()
        self.server.asked.append(path)
        parts = path.strip("/").split("/")
        if path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif not self._is_known():
            self._answer(401, {"error": "Invalid username or password."})
        elif path == "/api/repos/create":
            request = json.loads(body)
            name = f"{request['organization']}/{request['name']}"
            if name in self.server.repositories:
                self._answer(409, {"error": "You already created this model repo", "url": f"{self.server.url}/{name}"})
            else:
                self.server.repositories[name] = {}
                if request.get("visibility") == "private":
                    self.server.private.add(name)
                self._answer(200, {"url": f"{self.server.url}/{name}"})
        elif "preupload" in parts:
            files = json.loads(body)["files"]
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in files
            ]
            self._answer(200, {"files": modes})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**wanted, "actions": {"upload": {"href": f"{self.server.url}/lfs/{wanted['oid']}"}}}
                for wanted in json.loads(body)["objects"]
            ]
            self._answer(
                200, {"transfer": "basic", "objects": objects}, {"Content-Type": "application/vnd.git-lfs+json"}
            )
        else:
            assert "commit" in parts, path
            self._commit("/".join(parts[2:4]), body)

    def _commit(self, name: str, body: bytes) -> None:
        files = self.server.repositories[name]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                data = self.server.objects[value["oid"]]
                assert (hashlib.sha256(data).hexdigest(), len(data)) == (value["oid"], value["size"])
                files[value["path"]] = data
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        url = f"{self.server.url}/{name}/commit/{COMMIT}"
        self._answer(200, {"success": True, "commitUrl": url, "commitOid": COMMIT, "pullRequestUrl": None})

    def _is_known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, status: int, content: object, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
