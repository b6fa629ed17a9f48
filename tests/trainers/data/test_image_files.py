"""What is said of a file that is no image."""

import io
import tarfile
from pathlib import Path

import pytest

from trainers.data import image_files
from trainers.data.image_files import why_unreadable

HEIC = b"\0\0\0\x18ftypheic" + bytes(40)
NO_IMAGE = "got a file that is not an image, is damaged, or is of another format: remove, repair or convert it."


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "got an empty file: replace or remove it."),
        (b"Notes of the meeting\n" * 9, NO_IMAGE),
        (b"\x89PNX" + bytes(40), NO_IMAGE),
        (b"\0\0\0\x18ftypmp42" + bytes(40), NO_IMAGE),  # a film, whose container HEIC shares
        (HEIC, "got HEIC: pip install pillow-heif, or convert it."),
    ],
    ids=["empty", "text", "damaged", "film", "heic"],
)
@pytest.mark.parametrize("packed", [False, True])
def test_pillow_heif_is_advised_for_heic_alone(content, said, packed, tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "FORMATS", ("JPEG", "PNG"))  # wherever pillow-heif is installed
    path = str(tmp_path / "notes.jpg")
    Path(path).write_bytes(content)
    if packed:
        path = f"{tmp_path / 'a.tar'}::notes.jpg"
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            member = tarfile.TarInfo("notes.jpg")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    assert why_unreadable(path) == f"{path} can't be decoded: expected an image, JPEG, PNG; {said}"


def test_a_file_that_is_not_there_is_told_and_a_link_by_what_it_leads_to(tmp_path):
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert why_unreadable(str(tmp_path / "gone.png")) == (
        f"{tmp_path}/gone.png can't be read: expected a file; got a link to {tmp_path}/nowhere.png, which does not "
        "exist: remove the link, or put the file there."
    )
    assert "got none of this name" in why_unreadable(str(tmp_path / "none.png"))
