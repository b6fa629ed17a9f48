"""Images in tars and tables are found, named and decoded; other kinds and damage are told."""

import io
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from trainers.data import packed
from trainers.data.errors import DataError
from trainers.data.file_batches import FileBatches
from trainers.data.paths import image_paths


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (4, 4), value).save(file, "PNG")
    return file.getvalue()


FILES = [png(10 * i) for i in range(7)]


def write_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for i, content in enumerate(files):
            for name, data in ((f"cat/{i}.png", content), (f"cat/{i}.cls", b"3")):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def write_arrow(path, table, writer):
    with writer(path, table.schema) as file:
        file.write_table(table)


def values(paths) -> list[int]:
    batch = FileBatches(paths, (1, 4, 4), len(paths))[0]
    assert batch.errors == [""] * len(paths)
    return (batch.images[:, 0, 0, 0] * 255).round().int().tolist()


STRUCTS = [{"bytes": file, "path": None} for file in FILES]
TABLES = {
    "a.tar": lambda path: write_tar(path, FILES),
    "a.parquet": lambda path: pq.write_table(pa.table({"image": FILES, "label": [1] * 7}), path, row_group_size=2),
    "b.parquet": lambda path: pq.write_table(pa.table({"image": STRUCTS, "thumbnail": FILES}), path, row_group_size=3),
    "a.arrow": lambda path: write_arrow(path, pa.table({"jpg": FILES}), pa.ipc.new_file),
    "b.arrow": lambda path: write_arrow(path, pa.table({"image": STRUCTS}), pa.ipc.new_stream),
}


@pytest.mark.parametrize("name", TABLES)
def test_images_in_a_packed_file_are_decoded_by_the_paths_that_they_are_given(name, tmp_path):
    TABLES[name](tmp_path / name)
    paths = image_paths(str(tmp_path / name))
    assert len(set(paths)) == 7
    assert all(path.startswith(f"{tmp_path / name}::") for path in paths)
    assert values(paths) == [0, 10, 20, 30, 40, 50, 60]
    assert values(list(paths)[::-3]) == [60, 30, 0]


def test_a_table_of_paths_is_a_list_and_column_says_which(tmp_path):
    named = []
    for i, content in enumerate(FILES):
        named.append(str(tmp_path / f"{i}.png"))
        (tmp_path / named[-1]).write_bytes(content)
    pq.write_table(pa.table({"split": ["x"] * 7, "file": named}), tmp_path / "t.parquet")
    assert list(image_paths(str(tmp_path / "t.parquet"), column="file")) == named
    with pytest.raises(DataError, match=r"got split \(string\), file \(string\): set column="):
        image_paths(str(tmp_path / "t.parquet"))
    pq.write_table(pa.table({"path": [*named[:2], None]}), tmp_path / "u.parquet")
    with pytest.raises(DataError, match="expected a path in every row of the column path"):
        image_paths(str(tmp_path / "u.parquet"))


def test_a_folder_of_packed_files_stands_for_them_and_another_does_not(tmp_path):
    for name in ("1.tar", "0.tar"):
        write_tar(tmp_path / name, FILES[:2])
    paths = image_paths(str(tmp_path))
    assert [path.removeprefix(f"{tmp_path}/") for path in paths] == [
        "0.tar::cat/0.png", "0.tar::cat/1.png", "1.tar::cat/0.png", "1.tar::cat/1.png",
    ]  # fmt: skip
    (tmp_path / "z.png").write_bytes(FILES[0])
    assert len(image_paths(str(tmp_path))) == 3  # as ever: every file has a row


def test_what_is_wrong_with_one_image_is_said_in_its_row(tmp_path):
    write_tar(tmp_path / "a.tar", [FILES[0], b"rubbish"])
    pq.write_table(pa.table({"image": [FILES[1], None]}), tmp_path / "a.parquet")
    paths = [*image_paths([str(tmp_path / "a.tar"), str(tmp_path / "a.parquet")]), f"{tmp_path / 'a.tar'}::none.png"]
    batch = FileBatches(paths, (1, 4, 4), 5)[0]
    assert [bool(error) for error in batch.errors] == [False, True, False, True, True]
    assert "a.tar::cat/1.png can't be decoded: expected an image, JPEG" in batch.errors[1]
    assert "the row has none" in batch.errors[3]
    assert "there is none" in batch.errors[4]
    assert torch.isnan(batch.images[1]).all()


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tfrecord", "a.h5", "a.tar", "a.parquet", "a.arrow"])
def test_other_kinds_and_damaged_files_are_one_error(name, tmp_path):
    if name == "a.tar":
        write_tar(tmp_path / name, FILES)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:3000])
    else:
        (tmp_path / name).write_bytes(b"PK\0\0" * 100)
    expected = "can't be read: .* Repair or remove it" if name.endswith(("tar", "parquet", "arrow")) else "unpack it"
    with pytest.raises(DataError, match=expected):
        image_paths(str(tmp_path / name))


def test_a_file_that_was_replaced_is_read_anew(tmp_path):
    path = tmp_path / "a.tar"
    for files in (FILES[:2], FILES[4:]):
        write_tar(path, files)
        assert values(image_paths(str(path)))[0] == (0 if len(files) == 2 else 40)


def test_links_in_a_tar_are_the_images_that_they_link_to(tmp_path):
    folder = tmp_path / "a::b"  # not the separator before a member
    folder.mkdir()
    with tarfile.open(folder / "x.tar", "w") as archive:
        first = tarfile.TarInfo("./cat/0.png")
        first.size = len(FILES[2])
        archive.addfile(first, io.BytesIO(FILES[2]))
        for name, kind, target in (
            ("./cat/1.png", tarfile.LNKTYPE, "./cat/0.png"),
            ("./dog/2.png", tarfile.SYMTYPE, "../cat/1.png"),
            ("./dog/3.png", tarfile.SYMTYPE, "nowhere.png"),
            ("./dog/4.png", tarfile.SYMTYPE, "4.png"),
        ):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, target
            archive.addfile(link)
    paths = image_paths(str(folder / "x.tar"))
    assert [path.rpartition("::")[2] for path in paths] == [f"./{name}.png" for name in (
        "cat/0", "cat/1", "dog/2", "dog/3", "dog/4"
    )]  # fmt: skip
    assert values(paths[:3]) == [20, 20, 20]
    for path in paths[3:]:
        with pytest.raises(ValueError, match="link to what is not in it"):
            packed.content(path)
