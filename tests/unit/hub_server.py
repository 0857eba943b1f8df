"""A small server that speaks as much of the Hugging Face hub's protocol as its client uses to take a snapshot.

The hub itself is out of reach of a test; this lets the real `huggingface_hub` client run against real HTTP, with
repositories whose branches can move.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Hub:
    """Repositories by "datasets/<id>" or "models/<id>": each a list of commits, the last of which is `main`."""

    def __init__(self) -> None:
        self.commits: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.requests: list[str] = []
        # Files that the hub says are large, and content that arrives in place of the right one.
        self.large: set[str] = set()
        self.damaged: dict[str, bytes] = {}
        self.endpoint = ""

    def commit(self, repo: str, files: dict[str, bytes]) -> str:
        """Add a commit to a repository and return its hash."""
        history = self.commits.setdefault(repo, [])
        sha = hashlib.sha1(f"{repo} {len(history)}".encode()).hexdigest()
        history.append((sha, files))
        return sha

    def find(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Return the commit that a revision means, or None."""
        history = self.commits.get(repo, [])
        if revision == "main" and history:
            return history[-1]
        return next((commit for commit in history if commit[0] == revision), None)


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Serve a hub on a free port of this machine while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments) -> None:
            """Keep quiet."""

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(path)
            status, headers, content = respond(hub, path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def respond(hub: Hub, path: str) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body for a request."""
    parts = path.strip("/").split("/")
    if parts[0] == "api":
        kind, repo, verb = parts[1], "/".join(parts[1:4]), parts[4] if len(parts) > 4 else "revision"
        found = hub.find(repo, parts[5] if len(parts) > 5 else "main")
    else:
        kind = "datasets" if parts[0] == "datasets" else "models"
        start = 1 if kind == "datasets" else 0
        repo, verb = f"{kind}/{'/'.join(parts[start : start + 2])}", "resolve"
        found = hub.find(repo, parts[start + 3])
    if found is None:
        code = "RevisionNotFound" if repo in hub.commits else "RepoNotFound"
        return 404, {"X-Error-Code": code}, b""
    sha, files = found
    if verb == "revision":
        info = {"_id": "0", "id": "/".join(repo.split("/")[1:]), "sha": sha, "tags": [], "downloads": 0, "likes": 0}
        info |= {"private": False, "siblings": [sibling(hub, name, data) for name, data in files.items()]}
        return 200, {"Content-Type": "application/json"}, json.dumps(info).encode()
    if verb == "tree":
        tree = [
            {"type": "file", "path": name, "size": len(data), "oid": git_sha1(data)} for name, data in files.items()
        ]
        return 200, {"Content-Type": "application/json"}, json.dumps(tree).encode()
    name = "/".join(parts[start + 4 :])
    if name not in files:
        return 404, {"X-Error-Code": "EntryNotFound"}, b""
    headers = {"ETag": f'"{git_sha1(files[name])}"', "X-Repo-Commit": sha}
    return 200, headers, hub.damaged.get(name, files[name])


def git_sha1(data: bytes) -> str:
    """The name that git has for the content of a file."""
    return hashlib.sha1(b"blob %d\0%b" % (len(data), data)).hexdigest()


def sibling(hub: Hub, name: str, data: bytes) -> dict:
    """What the hub says of a file: git's hash of a small one, the SHA-256 too of a large one."""
    described = {"rfilename": name, "blobId": git_sha1(data), "size": len(data)}
    if name in hub.large:
        described["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return described
