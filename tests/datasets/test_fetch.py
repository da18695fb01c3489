"""Fetching from a local server: whole and verified files, or none at all."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from tallygrad.datasets import DataError, fetch, load
from tallygrad.datasets.fetch import Remote, download, whole_file
from tallygrad.datasets.formats.idx import write_idx
from tallygrad.datasets.sets import mnist

CONTENT = bytes(range(256)) * 20_000
SHA = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `files`; a path below /cut/ stops half-way, one below /bare/ tells no length."""

    files: dict[str, bytes] = {}  # noqa: RUF012
    asked: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.asked.append(self.path)
        data = self.files.get(self.path.rsplit("/", 1)[1])
        if data is None or self.path.startswith("/none/"):
            self.send_error(404)
            return
        self.send_response(200)
        if not self.path.startswith("/bare/"):
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with suppress(ConnectionError):
            self.wfile.write(data[: len(data) // 2] if self.path.startswith("/cut/") else data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.delenv("TALLYGRAD_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setattr(Handler, "files", {"a.bin": CONTENT})
    monkeypatch.setattr(Handler, "asked", [])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def remote(*mirrors: str, sha: str = SHA, name: str = "a.bin") -> Remote:
    return Remote(name, sha, mirrors)


def fails(target: Path, wanted: Remote, *parts: str) -> None:
    """A download must raise a one-line error with all parts and leave the folder empty."""
    with pytest.raises(DataError) as caught:
        download(wanted, target, progress=False, timeout=5)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value), caught.value
    assert list(target.iterdir()) == []


def test_download(server: str, tmp_path: Path) -> None:
    path = download(remote(server), tmp_path / "x" / "y", progress=False)
    assert path == tmp_path / "x" / "y" / "a.bin" and path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["a.bin"]
    assert path.stat().st_mode & 0o777 == 0o644
    assert download(remote(server + "/bare/"), tmp_path, progress=False).read_bytes() == CONTENT


def test_wrong_checksum_leaves_nothing(server: str, tmp_path: Path) -> None:
    wanted = remote(server, sha="0" * 64)
    with pytest.raises(DataError) as caught:
        download(wanted, tmp_path / "x", progress=False)
    told = f"{server}/a.bin: expected SHA-256 {'0' * 64}, got {SHA}"
    assert str(caught.value) == told and list((tmp_path / "x").iterdir()) == []


def test_cut_transfer_leaves_nothing(server: str, tmp_path: Path) -> None:
    half = f"expected {len(CONTENT)} bytes, got {len(CONTENT) // 2}: transfer cut off"
    fails(tmp_path / "x", remote(server + "/cut"), f"{server}/cut/a.bin: ", half)


def test_endless_transfer_is_stopped(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "LARGEST", 1_000_000)
    announced = f"expected a Content-Length of 0 to 1000000, got '{len(CONTENT)}'"
    fails(tmp_path / "x", remote(server), announced)
    fails(tmp_path / "x", remote(server + "/bare"), "expected at most 1000000 bytes, got more")


def test_every_failure_is_told(server: str, tmp_path: Path) -> None:
    nobody = "http://127.0.0.1:9"
    wanted = remote(nobody, server + "/none", server + "/cut", "no-url")
    fails(tmp_path / "x", wanted, f"{nobody}/a.bin: ", "404", "transfer cut off", "no-url/a.bin")
    fails(tmp_path / "x", remote(), "no mirror")


def test_next_mirror_is_tried_and_old_file_survives(server: str, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"old")
    with pytest.raises(DataError):
        download(remote(server + "/cut"), tmp_path, progress=False)
    assert (tmp_path / "a.bin").read_bytes() == b"old"
    download(remote(server + "/none", server + "/cut", server), tmp_path, progress=False)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert Handler.asked[-3:] == ["/none/a.bin", "/cut/a.bin", "/a.bin"]


def test_many_at_once(server: str, tmp_path: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        paths = list(
            pool.map(lambda _: download(remote(server), tmp_path, progress=False), range(12))
        )
    assert {path.read_bytes() for path in paths} == {CONTENT}
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_unwritable_folder(server: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.bin: .*file"):
        download(remote(server), tmp_path / "file" / "x", progress=False)
    assert Handler.asked == []


def test_whole_file_is_whole_or_absent(tmp_path: Path) -> None:
    with whole_file(tmp_path / "x") as stream:
        stream.write(b"new")
        assert not (tmp_path / "x").exists()
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "x") as stream:
        stream.write(b"half")
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"new"


def test_nothing_is_fetched_into_a_folder_that_others_may_change(
    server: str, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    for mirrors in ((server,), (server, server)):
        with pytest.raises(DataError, match=r"^\S+/shared: others may write to it .* XDG"):
            download(remote(*mirrors), shared / "mine", progress=False)
    assert Handler.asked == [] and not [*shared.iterdir()]


@pytest.mark.parametrize("announced", ["9" * 400, "-1"])
def test_lengths_that_are_none_are_refused(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, announced: str
) -> None:
    send = Handler.send_header

    def lie(handler: Handler, name: str, value: str) -> None:
        send(handler, name, announced if name == "Content-Length" else value)

    monkeypatch.setattr(Handler, "send_header", lie)
    fails(
        tmp_path / "x",
        remote(server),
        f"{server}/a.bin: expected a Content-Length of 0 to 1073741824, got '{announced[:9]}",
    )


def test_progress_bar(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[object, object]] = []
    moved: list[float] = []

    class Bar(fetch.tqdm):  # type: ignore[type-arg]
        def __init__(self, **options: object) -> None:
            seen.append((options["total"], options["disable"]))
            super().__init__(**(options | {"disable": True}))

        def update(self, n: float | None = 1) -> None:
            moved.append(n or 0)

    monkeypatch.setattr(fetch, "tqdm", Bar)
    download(remote(server), tmp_path, progress=True)
    download(remote(server + "/bare"), tmp_path, progress=False)
    assert seen == [(len(CONTENT), None), (None, True)]
    assert sum(moved) == 2 * len(CONTENT) and len(moved) > 2


def test_load_fetches_what_is_absent(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stem, rank, array in (
        ("t10k-images", "idx3", np.full((3, 28, 28), 7, np.uint8)),
        ("t10k-labels", "idx1", np.array([1, 2, 3], np.uint8)),
    ):
        write_idx(tmp_path / "plain", array)
        data = gzip.compress((tmp_path / "plain").read_bytes())
        Handler.files[f"{stem}-{rank}-ubyte.gz"] = data
        sums = mnist.FAMILIES["mnist"].sha256
        monkeypatch.setitem(sums, stem, hashlib.sha256(data).hexdigest())
    with pytest.raises(DataError, match="downloading is switched off"):
        load("mnist", "test", download=False, mirrors=[server])
    assert Handler.asked == []
    for _ in range(2):
        data_set = load("mnist", "test", tmp_path, mirrors=[server], progress=False)
        assert data_set.labels.tolist() == [1, 2, 3]
    cache = tmp_path / "home" / "tallygrad" / "mnist"
    assert len(Handler.asked) == len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "cifar100"])
def test_load_without_network(server: str, tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError) as caught:
        load(name, "train", mirrors=[server], progress=False)
    message = str(caught.value)
    assert message.startswith(f"{name}: not found in {tmp_path / 'home' / 'tallygrad'}; ")
    assert "404" in message and "'digits'" in message and "\n" not in message
    assert ("train-images-idx3-ubyte.gz" if "mnist" in name else "-binary.tar.gz") in message
