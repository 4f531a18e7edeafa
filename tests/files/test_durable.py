"""Files and folders are there whole or not at all, and what is in the way is said before the work."""

import errno
import os

import pytest

from selftrain.errors import OutputError, SelfTrainError
from selftrain.files.durable import check_file, check_folder, disk_problem, replacing, replacing_folder, whole_file


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_its_place_when_the_block_ends(tmp_path):
    file = tmp_path / "a" / "b" / "x.txt"
    with replacing(file) as scratch:
        scratch.write_text("new")
        assert not file.exists() and scratch.parent == file.parent
    assert file.read_text() == "new" and names(file.parent) == ["x.txt"]
    with pytest.raises(ZeroDivisionError), replacing(file) as scratch:
        scratch.write_text("half")
        raise ZeroDivisionError
    assert file.read_text() == "new" and names(file.parent) == ["x.txt"]


def test_what_fails_leaves_no_folder_that_was_made_for_it(tmp_path):
    for writing in (replacing, replacing_folder):
        with pytest.raises(ZeroDivisionError), writing(tmp_path / "a" / "b" / "x"):
            raise ZeroDivisionError
        assert names(tmp_path) == []


def test_a_folder_takes_its_place_when_the_block_ends(tmp_path):
    folder = tmp_path / "a" / "x"
    with replacing_folder(folder) as scratch:
        (scratch / "below").mkdir()
        (scratch / "below" / "file").write_text("new")
        assert not folder.exists()
    assert (folder / "below" / "file").read_text() == "new" and names(folder.parent) == ["x"]
    with pytest.raises(OSError) as caught, replacing_folder(folder) as scratch:
        (scratch / "other").write_text("x")
    assert caught.value.errno == errno.ENOTEMPTY and names(folder) == ["below"] and names(folder.parent) == ["x"]


def test_a_file_that_a_user_asked_for_is_written_or_one_sentence(tmp_path):
    (tmp_path / "file").write_text("x")
    refused = r"^out cannot be written \(got '.*file/y'\): not a directory; a part of the path is a file"
    with pytest.raises(OutputError, match=refused) as caught, whole_file(tmp_path / "file" / "y", "out"):
        raise AssertionError
    assert caught.value.parameter == "out"
    with pytest.raises(OutputError, match="no space left on device; free some space"), whole_file(tmp_path / "y", "out") as scratch:
        scratch.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    class Ours(SelfTrainError, OSError):
        pass

    with pytest.raises(Ours), whole_file(tmp_path / "y", "out"):
        raise Ours("of a service")
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize(("check", "message"), [(check_file, "must be a file .got the folder"), (check_folder, "must be a new folder .got the file")])
def test_a_file_is_no_folder_and_a_link_is_neither(tmp_path, check, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(OutputError, match=message):
        check(tmp_path / ("folder" if check is check_file else "file"), "out")
    with pytest.raises(OutputError, match="out must not be a link"):
        check(tmp_path / "link", "out")
    check(tmp_path / "a" / "b", "out")
    assert names(tmp_path) == ["file", "folder", "link"]


def test_what_a_disk_says():
    assert disk_problem(OSError(errno.ENOSPC, "x")) == "the disk is full (No space left on device)"
    assert disk_problem(OSError(errno.EFBIG, "x")) == "the file would be larger than is allowed"
    assert disk_problem(RuntimeError("SafetensorError: No space left on device (os error 28)")) == "the disk is full"
    assert disk_problem(OSError(errno.EROFS, "x")) == "Read-only file system"
    assert disk_problem(OSError(errno.ECONNRESET, "x")) is None and disk_problem(ValueError("x")) is None
