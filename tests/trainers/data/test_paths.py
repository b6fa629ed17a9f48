import os

import pytest

from trainers.data.errors import DataNotFoundError
from trainers.data.paths import Paths, image_paths, read_by_folder


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt", "deep/er/c.jpeg", "deep/a.png", os.fsdecode(b"\xff.png")):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path / "images"


def names(folder, paths):
    return [os.path.relpath(path, folder) for path in paths]


def test_a_folder_is_listed_at_any_depth_in_one_order(folder):
    found = image_paths(str(folder))
    listed = ["a.JPG", "b.png", "notes.txt", os.fsdecode(b"\xff.png"), "deep/a.png", "deep/er/c.jpeg"]
    assert names(folder, found) == listed


def test_several_folders_are_read_one_after_another_and_lists_and_one_folder_are_not(folder, tmp_path):
    listed, one, packed = tmp_path / "list.txt", folder / "deep" / "er", tmp_path / "shards"
    listed.write_bytes(b"\n".join(map(os.fsencode, image_paths(str(folder)))))

    def by_folder(*sources):
        return read_by_folder(sources, image_paths(list(map(str, sources))))

    assert by_folder(folder)
    assert by_folder(one, folder / "deep")
    assert not by_folder(one)
    assert not by_folder(listed)
    assert not by_folder(listed, one)
    assert not read_by_folder(str(packed), [f"{packed}/1.tar::cat/a.png", f"{packed}/1.tar::dog/b.png"])


def test_a_link_to_a_folder_is_followed_but_not_in_circles(folder):
    (folder / "deep" / "up").symlink_to(folder)
    (folder / "again").symlink_to(folder / "deep" / "er")
    found = names(folder, image_paths(str(folder)))
    assert "again/c.jpeg" in found
    assert len(found) == 7


def test_a_file_a_list_and_several_of_them(folder, tmp_path, monkeypatch):
    image, listed = str(folder / "b.png"), tmp_path / "list.txt"
    listed.write_bytes(b"images/a.JPG\r\n\nsomewhere/else without ending\n" + b"images/\xff.png\n" + image.encode())
    monkeypatch.chdir(tmp_path)
    in_list = ["images/a.JPG", "somewhere/else without ending", os.fsdecode(b"images/\xff.png"), image]
    assert list(image_paths(image)) == [image]
    assert list(image_paths("list.txt")) == in_list
    assert list(image_paths([image, "list.txt"])) == [image, *in_list]


def test_every_file_counts_but_hidden_ones_and_the_run_s_own(tmp_path):
    place = tmp_path / 'with space, "quotes" and ü'
    for name in (
        "a.gif",
        "b",
        "c.avif",
        ".DS_Store",
        ".hidden/d.png",
        ".e.png",
        "out.csv",
        "out-1.partial.csv",
        "run/f",
    ):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(b"\0")
    own = [place / "out.csv", place / "out-1.partial.csv", place / "run"]
    assert names(place, image_paths(str(place), own)) == [".e.png", "a.gif", "b", "c.avif"]
    assert list(image_paths(str(place / "a.gif"))) == [str(place / "a.gif")]
    assert list(image_paths(str(place / "b"))) == [str(place / "b")]  # no text, so no list


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, DataNotFoundError, "expected a file or a folder; got .* does not exist"),
        (b"\n\n", DataNotFoundError, "got none in .*: set another input"),
    ],
)
def test_what_holds_no_images_is_told(content, error, message, tmp_path):
    if content is not None:
        (tmp_path / "it").write_bytes(content)
    with pytest.raises(error, match=message):
        image_paths(str(tmp_path / "it"))


def test_paths_are_a_sequence():
    listed = ["a", "ä/ö.png", os.fsdecode(b"\xff"), ""]
    paths = Paths(listed)
    assert list(paths) == listed
    assert paths[-1] == listed[-1]
    assert paths[1:3] == listed[1:3]
    assert len(paths) == 4
    with pytest.raises(IndexError, match="path 4 of 4"):
        paths[4]
