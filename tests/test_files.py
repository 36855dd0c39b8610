"""Files are written whole or not at all, also where disks are full and file systems lack what others have."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path

import pytest

from mlecs_bench.errors import MlecsError
from mlecs_bench.files import MOST_LEVELS, create, parsed_json, publish, write_bytes, write_text

WRITERS = (create, write_bytes, lambda path, content: publish(path, content.decode()),
           lambda path, content: write_text(path, content.decode()))  # fmt: skip
FAILURES = {errno.ENOSPC: "make room on the disk", errno.EDQUOT: "make room in your quota", errno.EROFS: "make it"}


def failing(number):
    def fail(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    return fail


def test_a_disk_that_fails_at_any_step_is_one_line_and_leaves_no_part(tmp_path, monkeypatch):
    for number, cure in FAILURES.items():
        for writer in WRITERS:
            for step in ("open", "fsync", "name"):
                path = tmp_path / "a.json"
                with monkeypatch.context() as patched:
                    if step == "open":
                        patched.setattr(Path, "open", failing(number))
                    elif step == "fsync":
                        patched.setattr(os, "fsync", failing(number))
                    else:
                        patched.setattr(os, "link", failing(number))
                        patched.setattr(Path, "replace", failing(number))
                    with pytest.raises(MlecsError) as caught:
                        writer(path, b"new")
                line = str(caught.value)
                assert line.startswith(f"cannot write {path}: {os.strerror(number)}; {cure}")
                assert "\n" not in line
                assert list(tmp_path.iterdir()) == [], (writer, step, number)


def test_what_cannot_be_replaced_stays_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", failing(errno.ENOSPC))
    for writer in WRITERS:
        with pytest.raises(MlecsError):
            writer(path, b"new")
        assert [(p, p.read_bytes()) for p in tmp_path.iterdir()] == [(path, b"old")]


def test_of_many_that_create_a_file_one_does_with_and_without_hard_links(tmp_path, monkeypatch):
    for links in (True, False):
        if not links:
            monkeypatch.setattr(os, "link", failing(errno.EPERM))
        path, done = tmp_path / f"{links}.json", []
        threads = [
            threading.Thread(target=lambda i=i, path=path, done=done: done.append((create(path, b"%d" % i), i)))
            for i in range(12)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (winner,) = [i for made, i in done if made]
        assert len(done) == 12
        assert path.read_bytes() == b"%d" % winner
    assert sorted(p.name for p in tmp_path.iterdir()) == ["False.json", "True.json"]


def test_a_link_whose_answer_was_lost_has_created_the_file(tmp_path, monkeypatch):
    link = os.link

    def asked_twice(*names):
        link(*names)
        link(*names)

    monkeypatch.setattr(os, "link", asked_twice)
    assert create(tmp_path / "a", b"mine")
    assert not create(tmp_path / "a", b"yours")
    assert (tmp_path / "a").read_bytes() == b"mine"


def test_json_that_readers_take_in_different_ways_or_not_at_all_is_no_json():
    deepest = "[" * MOST_LEVELS + "]" * MOST_LEVELS
    for text in ('{"a": [1, 2.5, null, true, "é"]}', "3", '"\\u00e9"', deepest, "[1e308]", '"\\ud83d\\ude00"'):
        assert parsed_json(text) == parsed_json(text.encode()) == json.loads(text)
    for text in (
        "", "{", "NaN", "[-Infinity]", "[1e999]", "9" * 5000, '{"a": 1, "a": 1}', '"\\ud800"', f"[{deepest}]",
        "[" * 99999, '{"a":' * 9999,
    ):  # fmt: skip  # texts
        with pytest.raises(ValueError, match=r"\w"):
            parsed_json(text)
    for data in (b"\xff", b'"\xed\xa0\x80"', "1".encode("utf-16")):
        with pytest.raises(ValueError, match=r"\w"):
            parsed_json(data)
