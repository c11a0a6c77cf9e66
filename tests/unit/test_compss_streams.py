"""Streams of programs for PyCOMPSs, in one process."""

from __future__ import annotations

import os
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest

from pilot.compat.compss import streams
from pilot.compat.compss.errors import NotSupportedError
from pilot.compat.compss.streams import (
    AT_LEAST_ONCE,
    DistroStream,
    FileDistroStream,
    ObjectDistroStream,
    PscoDistroStream,
    StreamError,
)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of this test's streams."""
    monkeypatch.setattr(streams, "_place", lambda: tmp_path / "streams")
    return tmp_path


def elsewhere(stream: Any) -> Any:
    """The stream as it arrives in another process."""
    return pickle.loads(pickle.dumps(stream))


def test_objects_come_once_and_in_order() -> None:
    stream = ObjectDistroStream()
    other = elsewhere(stream.for_consumer())
    stream.publish({"first": 1})
    stream.publish_list([2, [3]])
    assert other.poll() == [{"first": 1}, 2, [3]]
    assert stream.poll(0) == [] and other.poll(0) == []
    stream.publish(4)
    assert stream.poll() == [4]


def test_each_object_goes_to_one_of_many_consumers() -> None:
    stream = ObjectDistroStream()
    stream.publish_list(range(200))
    got: list[list[int]] = [[] for _ in range(4)]

    def consume(into: list[int]) -> None:
        mine = elsewhere(stream.for_consumer())
        while found := mine.poll(0):
            into += found

    threads = [threading.Thread(target=consume, args=(each,)) for each in got]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(number for each in got for number in each) == list(range(200))


def test_at_least_once_gives_all_to_each() -> None:
    stream = ObjectDistroStream(access_mode=AT_LEAST_ONCE)
    first, second = stream.for_consumer(), stream.for_consumer()
    stream.publish("a")
    assert first.poll() == ["a"] and first.poll(0) == []
    stream.publish("b")
    assert second.poll() == ["a", "b"] and first.poll() == ["b"]


def test_an_alias_is_the_same_stream_of_its_kind(tmp_path: Path) -> None:
    ObjectDistroStream("numbers").publish(1)
    again = ObjectDistroStream(alias="numbers")
    assert again.poll() == [1] and again.get_stream_alias() == "numbers"
    assert again.get_stream_type() == "OBJECT"
    assert again.get_stream_id() != FileDistroStream("numbers", tmp_path).get_stream_id()
    assert ObjectDistroStream().get_stream_id() != ObjectDistroStream().get_stream_id()


def test_it_is_closed_when_all_producers_have_ended() -> None:
    stream = ObjectDistroStream()
    producers = [elsewhere(stream.for_producer()) for _ in range(2)]
    consumer = stream.for_consumer()
    assert not consumer.is_closed()
    producers[0].publish(1)
    producers[0].close()
    producers[0].close()
    assert not consumer.is_closed()
    producers[1].close()
    assert not consumer.is_closed()  # there is one to be had
    assert consumer.poll() == [1] and consumer.is_closed()
    assert consumer.poll() == []


def test_who_does_not_poll_hears_of_the_end_too() -> None:
    stream = ObjectDistroStream()
    stream.publish(1)
    stream.close()
    asked = [stream.is_closed(), stream.is_closed()]
    assert asked == [False, True]


def test_a_poll_waits_for_the_first() -> None:
    stream = ObjectDistroStream()
    timer = threading.Timer(0.05, stream.publish, ["late"])
    timer.start()
    assert stream.poll(60_000) == ["late"]
    timer.join()
    timer = threading.Timer(0.05, stream.close)
    timer.start()
    assert stream.poll(60_000) == []  # nothing comes any more
    timer.join()


def test_files_of_a_directory_are_a_stream(tmp_path: Path) -> None:
    base = tmp_path / "files"
    base.mkdir()
    stream = FileDistroStream(base_dir=base)
    (base / "b.txt").write_text("b")
    (base / "a.txt").write_text("a")
    (base / ".hidden").write_text("")
    (base / "directory").mkdir()
    stream.publish("of no effect")
    consumer = elsewhere(stream.for_consumer())
    assert consumer.poll() == [str(base / "a.txt"), str(base / "b.txt")]
    assert stream.poll() == [] and consumer.poll() == []
    (base / "c.txt").write_text("c")
    stream.close()
    assert not consumer.is_closed()
    assert consumer.poll() == [str(base / "c.txt")] and consumer.is_closed()


def test_a_file_that_is_being_written_is_left_until_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = FileDistroStream(base_dir=tmp_path)
    path = tmp_path / "f"
    path.write_text("half")

    def write_on(_: float) -> None:
        with path.open("a") as file:
            file.write(" and more")

    with monkeypatch.context() as patch:
        patch.setattr("time.sleep", write_on)
        assert stream.poll() == []
    assert stream.poll() == [str(path)]


def test_what_makes_no_stream(tmp_path: Path) -> None:
    with pytest.raises(StreamError, match="is no directory; make it"):
        FileDistroStream(base_dir=tmp_path / "no")
    with pytest.raises(NotSupportedError, match="ObjectDistroStream"):
        PscoDistroStream("alias")
    with pytest.raises(StreamError, match="AT_MOST_ONCE or AT_LEAST_ONCE"):
        ObjectDistroStream(access_mode="SOMETIMES")


def test_nothing_is_left_of_what_was_consumed(place: Path) -> None:
    stream: DistroStream = ObjectDistroStream()
    stream.publish_list([1, 2])
    stream.poll()
    assert os.listdir(place / "streams" / stream.id / "elements") == []
