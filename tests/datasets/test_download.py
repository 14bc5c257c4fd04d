from __future__ import annotations

import hashlib
import io
import stat
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tinydet.datasets import download, open_dataset
from tinydet.datasets.download import Archive, download_archives, download_dataset, extract, fetch
from tinydet.errors import InputError, TinydetError

CONTENT = bytes(range(256)) * 4000  # about a megabyte
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server:
    """Serves bytes by path; can end a connection too early, pass over ranges, or answer with an error."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.cut_after: list[int] = []  # bytes after which each coming answer ends
        self.ranges = True
        self.status = 200
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def answer(self, handler):
        asked = handler.headers.get("Range")
        self.requests.append((handler.path, asked))
        content = self.files.get(handler.path)
        if content is None or self.status != 200:
            handler.send_error(404 if content is None else self.status)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.ranges else 0
        if start >= len(content) > 0:
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(content)}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        body = content[start:]
        handler.wfile.write(body[: self.cut_after.pop(0)] if self.cut_after else body)


@pytest.fixture
def server():
    running = Server()
    running.files["/a.bin"] = CONTENT
    yield running
    running.http.shutdown()
    running.http.server_close()
    running.thread.join()


def tar_of(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, content in members:
            archive.writestr(member, content)
    return buffer.getvalue()


def test_an_empty_file_arrives(server, tmp_path):
    server.files["/a.bin"] = b""
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin", hashlib.md5(b"").hexdigest())
    assert (tmp_path / "a.bin").read_bytes() == b""


def test_a_file_arrives_with_its_progress_and_is_not_fetched_twice(server, tmp_path):
    told = []
    for _ in range(2):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin", MD5, advance=lambda *words: told.append(words))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert len(server.requests) == 1
    assert told[-1] == ("a.bin", len(CONTENT), len(CONTENT))


def test_an_interrupted_transfer_carries_on_within_one_call(server, tmp_path):
    server.cut_after = [300_000, 0, 200_000]
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin", MD5, pause_s=0)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    asked = [asked for _, asked in server.requests]
    assert asked == [None, "bytes=300000-", "bytes=300000-", "bytes=500000-"]


def test_an_interrupted_transfer_carries_on_in_the_next_call(server, tmp_path):
    server.cut_after = [300_000, 0, 0]
    with pytest.raises(TinydetError, match=r"300000 bytes are kept in .*the same command carries on") as error:
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin", MD5, attempts=2, pause_s=0)
    assert error.value.exit_status == 1
    assert not (tmp_path / "a.bin").exists()
    server.cut_after = []
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin", MD5)
    assert server.requests[-1][1] == "bytes=300000-"
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_server_without_ranges_sends_all_again(server, tmp_path):
    server.ranges = False
    server.cut_after = [300_000]
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin", MD5, pause_s=0)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_whole_partial_file_is_only_checked(server, tmp_path):
    (tmp_path / "a.bin.partial").write_bytes(CONTENT)
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin", MD5)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("stale", [b"x" * 1000, b"x" * len(CONTENT), b"x" * (len(CONTENT) + 5)])
def test_a_partial_file_of_something_else_is_fetched_anew(server, tmp_path, stale):
    (tmp_path / "a.bin.partial").write_bytes(stale)
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin", MD5, pause_s=0)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    with pytest.raises(TinydetError, match=f"wrong checksum: expected md5 {'0' * 32}, found {MD5}"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin", "0" * 32)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_there_is_not_asked_for_again(server, tmp_path):
    with pytest.raises(InputError, match="404"):
        fetch(f"{server.url}/b.bin", tmp_path / "b.bin", MD5)
    assert len(server.requests) == 1
    server.status = 503
    with pytest.raises(TinydetError, match=r"503 .*, 2 times without progress"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin", MD5, attempts=2, pause_s=0)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://a/b", "a/b", ""])
def test_other_urls_are_refused(tmp_path, url):
    with pytest.raises(InputError, match="expected a URL that begins with https"):
        fetch(url, tmp_path / "a", MD5)


def test_no_server(tmp_path):
    with pytest.raises(TinydetError, match="without progress"):
        fetch("http://127.0.0.1:9/a.bin", tmp_path / "a.bin", MD5, attempts=2, pause_s=0)


def link(name, target, kind=tarfile.SYMTYPE):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    "members",
    [
        [(tarfile.TarInfo("../evil"), b"x")],
        [(tarfile.TarInfo("good"), b"x"), (tarfile.TarInfo("a/../../evil"), b"x")],
        [(link("way", ".."), b""), (tarfile.TarInfo("way/evil"), b"x")],
        [(link("evil", "/etc/passwd"), b"")],
        [(link("evil", "../../secret", tarfile.LNKTYPE), b"")],
        [(link("evil", "", tarfile.CHRTYPE), b"")],
    ],
)
def test_a_malicious_tar_leaves_nothing(tmp_path, members):
    path = tmp_path / "in" / "a.tar"
    path.parent.mkdir()
    path.write_bytes(tar_of(members))
    folder = tmp_path / "deep" / "out"
    folder.mkdir(parents=True)
    with pytest.raises(TinydetError, match=r"a\.tar: cannot be unpacked"):
        extract(path, folder)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.tar", "deep", "in", "out"]


def test_a_malicious_zip_leaves_nothing(tmp_path):
    folder = tmp_path / "deep" / "out"
    folder.mkdir(parents=True)
    symlink = zipfile.ZipInfo("way")
    symlink.external_attr = (stat.S_IFLNK | 0o777) << 16
    for members in ([("../evil", "x")], [("/evil", "x")], [("a\\..\\..\\evil", "x")], [(symlink, "/etc")]):
        path = tmp_path / "a.zip"
        path.write_bytes(zip_of(members))
        with pytest.raises(TinydetError, match="would land outside"):
            extract(path, folder)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.zip", "deep", "out"]


@pytest.mark.parametrize("content", [b"", b"no archive", tar_of([(tarfile.TarInfo("a"), b"x" * 9000)])[:3000]])
def test_damaged_archives(tmp_path, content):
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    with pytest.raises(TinydetError, match="cannot be unpacked"):
        extract(path, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar"]


def test_archives_unpack_into_one_folder_once(server, tmp_path):
    first = tar_of([(tarfile.TarInfo("VOCdevkit/VOC2007/a.txt"), b"1")])
    second = zip_of([("VOCdevkit/VOC2007/b.txt", "2"), ("VOCdevkit/VOC2007/sub/", "")])
    server.files |= {"/x.tar": first, "/y.zip": second}
    archives = tuple(
        Archive(f"{server.url}/{name}", hashlib.md5(content).hexdigest())
        for name, content in (("x.tar", first), ("y.zip", second))
    )
    for _ in range(2):
        download_archives(archives, tmp_path / "out")
    assert len(server.requests) == 2
    folder = tmp_path / "out" / "VOCdevkit" / "VOC2007"
    assert [(folder / name).read_text() for name in ("a.txt", "b.txt")] == ["1", "2"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".x.tar.unpacked",
        ".y.zip.unpacked",
        "VOCdevkit",
    ]


def test_the_sources_are_those_that_torchvision_checks():
    voc = pytest.importorskip("torchvision.datasets.voc").DATASET_YEAR_DICT
    wider = pytest.importorskip("torchvision.datasets").WIDERFace
    ours = {archive.name: archive for archives in download.SOURCES.values() for archive in archives}
    for year in ("2007", "2007-test", "2012"):
        theirs = voc[year]
        assert (ours[theirs["filename"]].url, ours[theirs["filename"]].md5) == (theirs["url"], theirs["md5"])
    for _, md5, name in [*wider.FILE_LIST[:2], wider.ANNOTATIONS_FILE]:
        assert ours[name].md5 == md5


def test_a_mirror_from_the_command_line(server, tmp_path, voc_root, tinydet, monkeypatch):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.add(voc_root, "VOCdevkit/VOC2012")
    server.files["/mirror/VOCtrainval_11-May-2012.tar"] = content.getvalue()
    real = download.SOURCES["voc2012"][0].url
    arguments = ("data", "download", "voc2012", "--out", tmp_path / "got", "--url", f"{server.url}/mirror/")
    status, _, error = tinydet(*arguments)
    assert status == 1
    assert "wrong checksum" in error  # ours is not the real one
    md5 = hashlib.md5(content.getvalue()).hexdigest()
    monkeypatch.setitem(download.SOURCES, "voc2012", (Archive(real, md5),))
    status, out, _ = tinydet(*arguments)
    assert (status, "tinydet data check" in out) == (0, True)
    assert len(open_dataset(tmp_path / "got").split("trainval")) == 4
    with pytest.raises(InputError, match="there are voc2007, voc2012, wider"):
        download_dataset("imagenet", tmp_path)
