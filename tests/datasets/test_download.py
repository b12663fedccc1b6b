from __future__ import annotations

import errno
import gzip
import hashlib
import os
import signal
import time
from dataclasses import replace

import pooch
import pytest

from scivae.datasets import DamagedFileError, DownloadError
from scivae.datasets._download import atomic_write, check, fetch
from scivae.datasets.registry import RemoteFile

QUIET = {"progress": False, "timeout": 0.5}


def test_a_file_arrives_whole_with_its_hash_and_nothing_else(server, gz_file, tmp_path, helpers):
    path = fetch(gz_file, tmp_path, **QUIET)
    body = server.files["file.gz"]
    assert path.read_bytes() == body
    record = (tmp_path / "set/file.gz.sha256").read_text()
    assert record == f"{hashlib.sha256(body).hexdigest()}  file.gz\n"
    assert helpers.visible(tmp_path) == {"set/file.gz", "set/file.gz.sha256"}
    assert fetch(gz_file, tmp_path, **QUIET) == path
    assert server.requests["file.gz"] == 1


def test_downloads_go_to_scanpys_folder(gz_file, folder):
    assert fetch(gz_file, **QUIET) == folder / "set/file.gz"


def test_progress_bar_is_drawn_on_request(gz_file, tmp_path, capfd):
    fetch(gz_file, tmp_path, timeout=5, progress=True)
    assert "100%" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("404", "HTTP 404"),
        ("500", "HTTP 500"),
        ("cut", "Connection"),
        ("truncated", "not a complete gzip file"),
        ("wrong", "not a complete gzip file"),
        ("slow", "no answer within 0.5 s"),
        ("stall", "timed out"),
    ],
)
def test_fault_of_every_mirror_leaves_nothing_and_says_what_to_do(
    server, gz_file, tmp_path, helpers, fault, told
):
    server.slow = 1.2
    server.faults["file.gz"] = [fault] * 9
    with pytest.raises(DownloadError) as caught:
        fetch(gz_file, tmp_path, **QUIET)
    message = str(caught.value)
    assert told in message
    assert message.endswith(
        f"Download the file manually from {gz_file.urls[0]} and save it as {tmp_path}/set/file.gz"
    )
    assert "\n" not in message
    assert helpers.visible(tmp_path) == set()


@pytest.mark.parametrize("fault", ["404", "500", "cut", "truncated", "wrong", "slow"])
def test_fault_of_one_mirror_is_cured_by_the_next(server, gz_file, tmp_path, helpers, fault):
    server.slow = 1.2
    server.files["other/file.gz"] = server.files["file.gz"]
    server.faults["file.gz"] = [fault] * 9
    both = replace(gz_file, urls=(*gz_file.urls, server.url("other/file.gz")))
    path = fetch(both, tmp_path, **QUIET)
    assert path.read_bytes() == server.files["file.gz"]
    assert server.requests["other/file.gz"] == 1
    assert helpers.visible(tmp_path) == {"set/file.gz", "set/file.gz.sha256"}


@pytest.mark.parametrize("fault", ["500", "503", "cut", "slow"])
def test_passing_fault_is_tried_once_more(server, gz_file, tmp_path, fault):
    server.slow = 1.2
    server.faults["file.gz"] = [fault]
    assert fetch(gz_file, tmp_path, **QUIET).is_file()
    assert server.requests["file.gz"] == 2


def test_missing_file_is_not_asked_for_twice(server, gz_file, tmp_path):
    server.faults["file.gz"] = ["404"] * 9
    with pytest.raises(DownloadError):
        fetch(gz_file, tmp_path, **QUIET)
    assert server.requests["file.gz"] == 1


def test_mirrors_of_the_user_come_first(server, gz_file, tmp_path):
    server.files["near/file.gz"] = server.files["file.gz"]
    fetch(gz_file, tmp_path, mirrors=[server.url("near/")], **QUIET)
    assert (server.requests["near/file.gz"], server.requests["file.gz"]) == (1, 0)


def test_nobody_listens(tmp_path, helpers):
    file = RemoteFile("a.gz", ("http://127.0.0.1:9/a.gz",), "gzip", megabytes=7)
    with pytest.raises(
        DownloadError, match=r"a.gz \(about 7 MB\) could not .* missing. Tried: .*:9"
    ):
        fetch(file, tmp_path, **QUIET)
    assert helpers.visible(tmp_path) == set()


@pytest.mark.parametrize("field", ["checksum", "unpacked"])
def test_wrong_checksum_is_refused(server, gz_file, tmp_path, helpers, field):
    wrong = replace(gz_file, **{field: "md5:" + "0" * 32})
    with pytest.raises(
        DownloadError, match=f"checksum of the .*file must be md5:{'0' * 32}, got md5:"
    ):
        fetch(wrong, tmp_path, **QUIET)
    assert helpers.visible(tmp_path) == set()
    assert fetch(wrong, tmp_path, verify=False, **QUIET).is_file()


def test_right_checksums_are_taken(server, gz_file, tmp_path):
    body = server.files["file.gz"]
    right = replace(
        gz_file,
        checksum=f"sha256:{hashlib.sha256(body).hexdigest()}",
        unpacked=f"md5:{hashlib.md5(gzip.decompress(body)).hexdigest()}",
    )
    assert fetch(right, tmp_path, **QUIET).is_file()


def test_same_content_packed_otherwise_is_the_same(server, gz_file, tmp_path):
    content = gzip.decompress(server.files["file.gz"])
    server.files["file.gz"] = gzip.compress(content, compresslevel=0)
    file = replace(gz_file, unpacked=f"md5:{hashlib.md5(content).hexdigest()}")
    assert fetch(file, tmp_path, **QUIET).is_file()


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_damaged_cache_is_noticed_and_fetched_anew(server, gz_file, tmp_path, damage):
    path = fetch(gz_file, tmp_path, **QUIET)
    body = bytearray(path.read_bytes())
    if damage == "flip":
        body[4] ^= 1  # the time stamp: nothing but the hash can tell
    path.write_bytes(b"" if damage == "empty" else body[:1000] if damage == "cut" else body)
    assert fetch(gz_file, tmp_path, **QUIET).read_bytes() == server.files["file.gz"]
    assert server.requests["file.gz"] == 2


def test_damaged_cache_without_a_network_is_kept_and_named(server, gz_file, tmp_path):
    path = fetch(gz_file, tmp_path, **QUIET)
    path.write_bytes(b"mine")
    server.faults["file.gz"] = ["404"]
    with pytest.raises(DownloadError, match="damaged .* on purpose, delete file.gz.sha256"):
        fetch(gz_file, tmp_path, **QUIET)
    assert path.read_bytes() == b"mine"


def test_file_put_there_by_hand_is_used(server, gz_file, tmp_path, helpers):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/file.gz").write_bytes(gzip.compress(b"by hand"))
    assert gzip.decompress(fetch(gz_file, tmp_path, **QUIET).read_bytes()) == b"by hand"
    assert server.requests["file.gz"] == 0
    assert "set/file.gz.sha256" in helpers.visible(tmp_path)


def test_half_a_file_put_there_by_hand_is_not_used(server, gz_file, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/file.gz").write_bytes(server.files["file.gz"][:-9])
    assert fetch(gz_file, tmp_path, **QUIET).read_bytes() == server.files["file.gz"]


def test_folder_that_cannot_be_locked_serves(server, gz_file, tmp_path, monkeypatch):
    path = fetch(gz_file, tmp_path, **QUIET)
    (tmp_path / "set/file.gz.sha256").unlink()

    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "read-only", str(tmp_path))

    monkeypatch.setattr("scivae.datasets._download.locked", refuse)
    assert fetch(gz_file, tmp_path, **QUIET) == path
    path.unlink()
    with pytest.raises(PermissionError):
        fetch(gz_file, tmp_path, **QUIET)


# ---- this machine fails ---------------------------------------------------------------------


def test_full_disk_stops_at_once_and_leaves_nothing(
    server, gz_file, tmp_path, helpers, monkeypatch
):
    def full(self, url, output_file, pooch, check_only=False):
        output_file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", full)
    both = replace(gz_file, urls=(*gz_file.urls, "http://127.0.0.1:9/never"))
    with pytest.raises(OSError, match="No space left on device; free some space") as caught:
        fetch(both, tmp_path, **QUIET)
    assert caught.value.errno == errno.ENOSPC
    assert not isinstance(caught.value, DownloadError)
    assert helpers.visible(tmp_path) == set()


def test_real_limit_on_file_size_leaves_nothing(server, tmp_path, helpers):
    server.files["big.gz"] = gzip.compress(os.urandom(4_000_000), compresslevel=1)
    out = helpers.light_run(f"""
        import resource
        from pathlib import Path
        from scivae.datasets._download import fetch
        from scivae.datasets.registry import RemoteFile
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, resource.RLIM_INFINITY))
        file = RemoteFile("big.gz", ({server.url("big.gz")!r},), "gzip")
        try:
            fetch(file, Path({str(tmp_path)!r}), progress=False)
        except OSError as error:
            print(type(error).__name__, error.errno)
        """)
    assert out.split() == ["OSError", str(errno.EFBIG)]
    assert server.requests["big.gz"] == 1
    assert helpers.visible(tmp_path) == set()


def _fetching(server, tmp_path) -> str:
    return f"""
        from pathlib import Path
        from scivae.datasets._download import fetch
        from scivae.datasets.registry import RemoteFile
        file = RemoteFile("big.gz", ({server.url("big.gz")!r},), "gzip")
        print(fetch(file, Path({str(tmp_path)!r}), progress=False))
        """


def test_process_killed_while_writing(server, tmp_path, helpers):
    server.files["big.gz"] = gzip.compress(os.urandom(6_000_000), compresslevel=1)
    server.faults["big.gz"] = ["trickle"]
    process = helpers.light_process(_fetching(server, tmp_path))
    part = tmp_path / ".big.gz.part"
    deadline = time.monotonic() + 30
    while not (part.is_file() and part.stat().st_size):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert 0 < part.stat().st_size < len(server.files["big.gz"])
    assert not (tmp_path / "big.gz").exists()

    file = RemoteFile("big.gz", (server.url("big.gz"),), "gzip")
    path = fetch(file, tmp_path, progress=False)  # the lock went with the process
    assert path.read_bytes() == server.files["big.gz"]
    assert helpers.visible(tmp_path) == {"big.gz", "big.gz.sha256"}


def test_two_processes_download_once(server, tmp_path, helpers):
    server.files["big.gz"] = gzip.compress(os.urandom(2_000_000), compresslevel=1)
    server.faults["big.gz"] = ["trickle"]
    processes = [helpers.light_process(_fetching(server, tmp_path)) for _ in range(2)]
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert out.strip() == str(tmp_path / "big.gz")
    assert server.requests["big.gz"] == 1
    assert helpers.visible(tmp_path) == {"big.gz", "big.gz.sha256"}


def test_link_under_the_temporary_name_is_not_followed(server, gz_file, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/.file.gz.part").symlink_to(victim)
    fetch(gz_file, tmp_path, **QUIET)
    assert victim.read_text() == "mine"


def test_atomic_write_keeps_the_old_file_on_failure(tmp_path):
    target = tmp_path / "a"
    target.write_text("old")

    def fail():
        with atomic_write(target) as part:
            part.write_text("new")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


# ---- the form of a table --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a\tb\n1\t2\n", None),
        ("a\tc\n1\t2\n", "must have a column 'b'"),
        ("a\tb\n1\n", "line 2 must have 2 fields like the header, got 1"),
        ("a\tb\n1\t2\n3\t4", "got none: truncated"),
        ("<html>\n", "must have a column 'a'"),
        ("", "must have a column 'a'"),
    ],
)
def test_tables_are_checked(tmp_path, text, told):
    path = tmp_path / "t.tsv"
    path.write_text(text)
    file = RemoteFile("t.tsv", (), "tsv", columns=("a", "b"))
    if told is None:
        check(path, file)
    else:
        with pytest.raises(DamagedFileError, match=told):
            check(path, file)
