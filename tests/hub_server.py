"""A small model hub on 127.0.0.1: the endpoints that huggingface_hub uses to create, upload, list and download.

Files small enough go inline into the commit; the rest are stored by sha256 through LFS first, as on the real Hub.
Faults are switched on by attributes, so that a test reads like the mishap it is about.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.hub_card import card_errors

INLINE_BYTES = 4096
Json = dict[str, Any]


@dataclass
class Repository:
    """Files by path; `commits` counts the changes of what readers see."""

    owner: str
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: int = 0

    @property
    def sha(self) -> str:
        return hashlib.sha1(f"{self.owner}{self.commits}".encode()).hexdigest()


@dataclass
class Hub:
    """What the server knows, and what goes wrong."""

    url: str = ""
    users: dict[str, str] = field(default_factory=lambda: {"token-of-alice": "alice", "token-of-bob": "bob"})
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    uploads_until_cut: int | None = None
    cut_at_commit: bool = False
    status_of_everything: int | None = None

    def count(self, method: str, part: str) -> int:
        """Requests whose path holds `part`."""
        return sum(1 for verb, path in self.requests if verb == method and part in path)


class _Refused(Exception):
    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    """Head and body in one packet: else each answer waits for the reader's delayed acknowledgement."""

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_HEAD(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def do_PUT(self) -> None:
        self._answer(self._put)

    def _answer(self, handle: Any) -> None:
        path = self.path.split("?")[0].strip("/")
        self.hub.requests.append((self.command, path))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            if self.hub.status_of_everything is not None:
                raise _Refused(self.hub.status_of_everything, "maintenance")
            handle(path.split("/"), body)
        except ConnectionAbortedError:
            self.close_connection = True
        except _Refused as refused:
            headers = {"X-Error-Message": refused.message}
            if refused.code:
                headers["X-Error-Code"] = refused.code
            self._send(refused.status, json.dumps({"error": refused.message}).encode(), headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, content: object) -> None:
        self._send(HTTPStatus.OK, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _user(self) -> str | None:
        """The caller; a token nobody has is refused even for public files, as the Hub does."""
        given = self.headers.get("Authorization", "")
        if not given:
            return None
        user = self.hub.users.get(given.removeprefix("Bearer "))
        if user is None:
            raise _Refused(401, "Invalid credentials in Authorization header")
        return user

    def _repository(self, name: str, *, write: bool) -> Repository:
        user = self._user()
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and user != repository.owner):
            status = 404 if user else 401
            raise _Refused(status, "Repository not found", "RepoNotFound")
        if write and user != repository.owner:
            raise _Refused(403, "Forbidden: you don't have write permission")
        return repository

    def _get(self, parts: list[str], _: bytes) -> None:
        match parts:
            case ["api", "whoami-v2"]:
                user = self._user()
                if user is None:
                    raise _Refused(401, "Invalid username or password.")
                self._json({"type": "user", "name": user, "orgs": []})
            case ["api", "models", owner, name, *rest] if rest[:1] in ([], ["revision"]):
                self._info(f"{owner}/{name}")
            case ["api", "models", owner, name, "tree", _, *_]:
                self._tree(f"{owner}/{name}")
            case [owner, name, "resolve", _, *path]:
                self._file(f"{owner}/{name}", "/".join(path))
            case _:
                raise _Refused(404, f"no such page {'/'.join(parts)}", "EntryNotFound")

    def _info(self, name: str) -> None:
        repository = self._repository(name, write=False)
        siblings = [{"rfilename": path} for path in sorted(repository.files)]
        self._json(
            {
                "id": name,
                "sha": repository.sha,
                "private": repository.private,
                "siblings": siblings,
                "tags": [],
            }
        )

    def _tree(self, name: str) -> None:
        repository = self._repository(name, write=False)
        self._json(
            [
                {"type": "file", "path": path, "size": len(data), "oid": oid(data)}
                for path, data in sorted(repository.files.items())
            ]
        )

    def _file(self, name: str, path: str) -> None:
        repository = self._repository(name, write=False)
        data = repository.files.get(path)
        if data is None:
            raise _Refused(404, "Entry not found", "EntryNotFound")
        headers = {"ETag": f'"{oid(data)}"', "X-Repo-Commit": repository.sha, "Accept-Ranges": "bytes"}
        self._send(HTTPStatus.OK, data, headers)

    def _post(self, parts: list[str], body: bytes) -> None:
        match parts:
            case ["api", "repos", "create"]:
                self._create(json.loads(body))
            case ["api", "validate-yaml"]:
                self._validate(json.loads(body)["content"])
            case ["api", "models", owner, name, "preupload", _]:
                self._preupload(f"{owner}/{name}", json.loads(body)["files"])
            case [owner, name, "info", "lfs", "objects", "batch"]:
                self._batch(f"{owner}/{name.removesuffix('.git')}", json.loads(body)["objects"])
            case ["api", "models", owner, name, "commit", _]:
                self._commit(f"{owner}/{name}", [json.loads(line) for line in body.splitlines()])
            case _:
                raise _Refused(404, f"no such action {'/'.join(parts)}")

    def _validate(self, content: str) -> None:
        errors = [{"message": message} for message in card_errors(content)]
        body = json.dumps({"errors": errors, "warnings": []}).encode()
        self._send(400 if errors else 200, body, {"Content-Type": "application/json"})

    def _create(self, wanted: Json) -> None:
        user = self._user()
        if user is None:
            raise _Refused(401, "Invalid username or password.")
        owner = wanted.get("organization") or user
        name = f"{owner}/{wanted['name']}"
        if owner != user:
            raise _Refused(403, f'You don\'t have the rights to create a model under the namespace "{owner}"')
        url = f"{self.hub.url}/{name}"
        if name in self.hub.repositories:
            self._send(409, json.dumps({"error": "You already created this model repo", "url": url}).encode())
            return
        self.hub.repositories[name] = Repository(owner, private=wanted.get("visibility") == "private")
        self._json({"url": url, "name": name})

    def _preupload(self, name: str, files: list[Json]) -> None:
        repository = self._repository(name, write=True)
        answers = [
            {
                "path": file["path"],
                "uploadMode": "regular" if file["size"] <= INLINE_BYTES else "lfs",
                "shouldIgnore": False,
                "oid": oid(repository.files[file["path"]]) if file["path"] in repository.files else None,
            }
            for file in files
        ]
        self._json({"files": answers})

    def _batch(self, name: str, objects: list[Json]) -> None:
        self._repository(name, write=True)
        answers: list[Json] = []
        for item in objects:
            answer: Json = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.objects:
                answer["actions"] = {"upload": {"href": f"{self.hub.url}/store/{item['oid']}", "header": {}}}
            answers.append(answer)
        self._json({"transfer": "basic", "objects": answers})

    def _put(self, parts: list[str], body: bytes) -> None:
        _, oid = parts
        if self.hub.uploads_until_cut is not None:
            if self.hub.uploads_until_cut == 0:
                raise ConnectionAbortedError
            self.hub.uploads_until_cut -= 1
        if hashlib.sha256(body).hexdigest() != oid:
            raise _Refused(400, "checksum mismatch")
        self.hub.objects[oid] = body
        self._send(HTTPStatus.OK, b"")

    def _commit(self, name: str, lines: list[Json]) -> None:
        if self.hub.cut_at_commit:
            raise ConnectionAbortedError
        repository = self._repository(name, write=True)
        files = dict(repository.files)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        repository.files = files
        repository.commits += 1
        self._json({"commitUrl": f"{self.hub.url}/{name}/commit/{repository.sha}", "commitOid": repository.sha})


def oid(data: bytes) -> str:
    """How the Hub names contents: LFS files by sha256, the others as git names a blob."""
    if len(data) > INLINE_BYTES:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that listens until the block ends."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
