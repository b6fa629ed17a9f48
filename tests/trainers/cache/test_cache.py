import multiprocessing
import os
import signal
import time

import pytest

from trainers.cache import Cache

FORK = multiprocessing.get_context("fork")  # none of these processes computes anything


def make_slowly(folder, seconds):
    """What a process does that makes a file in two halves."""

    def make(path):
        with open(path, "w") as file:
            file.write("first half, ")
            file.flush()
            (folder / f"begun-{os.getpid()}").touch()
            time.sleep(seconds)
            file.write("second half")

    assert Cache(folder).file("things", {"x": 1}, (), ".txt", make).read_text() == "first half, second half"


def test_a_file_is_made_once_for_the_same_parts(tmp_path):
    cache, made = Cache(tmp_path), []

    def make(path):
        made.append(path)
        path.write_text("content")

    paths = [cache.file("things", {"x": x}, (), ".txt", make) for x in (1, 1, 2)]
    assert len(made) == 2
    assert paths[0] == paths[1] != paths[2]
    assert paths[0].read_text() == "content"
    assert '"x": 1' in paths[0].with_suffix(".json").read_text()


def test_what_fails_leaves_nothing_and_is_tried_again(tmp_path):
    cache = Cache(tmp_path)

    def fail(path):
        path.write_text("half")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        cache.file("things", {}, (), ".txt", fail)
    assert cache.file("things", {}, (), ".txt", lambda path: path.write_text("whole")).read_text() == "whole"


def test_of_three_processes_at_once_one_makes_and_all_read_it_whole(tmp_path):
    running = [FORK.Process(target=make_slowly, args=(tmp_path, 0.4)) for _ in range(3)]
    for process in running:
        process.start()
    for process in running:
        process.join(60)
    assert [process.exitcode for process in running] == [0, 0, 0]
    assert len(list(tmp_path.glob("begun-*"))) == 1


def test_a_killed_process_leaves_neither_a_lock_nor_half_a_file(tmp_path):
    process = FORK.Process(target=make_slowly, args=(tmp_path, 600))
    process.start()
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("begun-*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    path = Cache(tmp_path).file("things", {"x": 1}, (), ".txt", lambda path: path.write_text("whole"))
    assert path.read_text() == "whole"
