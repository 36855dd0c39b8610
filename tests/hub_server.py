"""A stand-in for a hub: it answers what huggingface_hub asks about a few tiny models, and remembers what was asked."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

CLUTTER = {
    "pytorch_model.bin": b"the same weights again",
    "onnx/model.onnx": b"and again",
    "tf_model.h5": b"and again",
    "consolidated.safetensors": b"another library's",
    "README.md": b"words",
}
"""What repositories hold beside what is needed."""


@dataclass
class Repository:
    """A model at one commit; `gated` ones list their files and give none, of `cut` ones half is sent."""

    files: dict[str, bytes]
    commit: str = "0123456789abcdef0123456789abcdef01234567"
    gated: bool = False
    cut: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, folder: str | Path) -> Repository:
        """Return a saved model with the clutter of a real repository."""
        return cls({path.name: path.read_bytes() for path in Path(folder).iterdir()} | CLUTTER)


@dataclass
class Hub:
    """What the stand-in has, where it is, and the files that it gave."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    endpoint: str = ""
    asked: list[str] = field(default_factory=list)
    given: list[str] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.asked.append(f"{self.command} {path}")
        parts = path.removeprefix("api/models/").split("/")
        name, rest = "/".join(parts[:2]), parts[2:]
        repository = self.hub.repositories.get(name)
        if repository is None:
            return self._refuse(404, "RepoNotFound")
        if len(rest) > 1 and rest[1] not in ("main", repository.commit):
            return self._refuse(404, "RevisionNotFound")
        if path.startswith("api/models/"):
            return self._say(self._tree(repository) if rest[:1] == ["tree"] else self._info(name, repository))
        return self._file(repository, "/".join(rest[2:]))

    def _info(self, name: str, repository: Repository) -> object:
        files = [{"rfilename": file, "size": len(content)} for file, content in repository.files.items()]
        return {"id": name, "modelId": name, "sha": repository.commit, "siblings": files}

    def _tree(self, repository: Repository) -> object:
        return [
            {"type": "file", "path": file, "size": len(content), "oid": _oid(content)}
            for file, content in repository.files.items()
        ]

    def _say(self, value: object) -> None:
        self._send(json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _file(self, repository: Repository, name: str) -> None:
        if repository.gated:
            return self._refuse(403, "GatedRepo")
        content = repository.files.get(name)
        if content is None:
            return self._refuse(404, "EntryNotFound")
        if self.command == "GET":
            self.hub.given.append(name)
        return self._send(
            content, {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": repository.commit}, cut=name in repository.cut
        )

    def _send(self, content: bytes, headers: dict[str, str], *, cut: bool = False) -> None:
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.close_connection = True


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@contextmanager
def served(**repositories: Repository) -> Iterator[Hub]:
    """Give a hub on this machine; names are given with two underscores for the slash."""
    hub = Hub({name.replace("__", "/"): repository for name, repository in repositories.items()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def reached(monkeypatch, hub: Hub, cache: Path, *, offline: bool = False) -> None:
    """Let this process use a hub, and an empty cache, instead of those of its environment."""
    from huggingface_hub import constants

    for name, value in {
        "ENDPOINT": hub.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": f"{hub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_OFFLINE": offline,
        "HF_HUB_DISABLE_XET": True,
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_HUB_OFFLINE", str(int(offline)))
    for proxy in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
