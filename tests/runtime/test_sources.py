import itertools
import time

import numpy as np
import pytest
from PIL import Image

from tinydet.errors import InputError
from tinydet.runtime.ahead import Ahead
from tinydet.runtime.sources import Frame, SourceConfig, Unreadable, frames, images_in


def write_image(path, value: int = 100):
    Image.fromarray(np.full((20, 30, 3), value, np.uint8)).save(path)


def test_an_empty_folder_has_no_images(tmp_path):
    assert images_in(tmp_path) == []
    assert list(frames([str(tmp_path)])) == []


def test_files_and_folders_in_order_and_what_cannot_be_read(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("b.png", "a.jpg"):
        write_image(tmp_path / "in" / name)
    (tmp_path / "in" / "c.jpg").write_bytes(b"nothing")
    (tmp_path / "in" / "notes.txt").write_text("x")
    write_image(tmp_path / "z.png")
    found = list(frames([str(tmp_path / "in"), str(tmp_path / "z.png")]))
    assert [one.source.rsplit("/", 1)[1] for one in found] == ["a.jpg", "b.png", "c.jpg", "z.png"]
    assert [type(one) for one in found] == [Frame, Frame, Unreadable, Frame]
    with pytest.raises(InputError, match="no such image"):
        list(frames([str(tmp_path / "none.jpg")]))


def test_a_growing_folder_gives_a_file_once_it_is_whole(tmp_path):
    write_image(tmp_path / "a.png")
    looks = itertools.count()

    def sleep(_):
        look = next(looks)
        if look == 1:
            (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:10])  # still being written
        if look == 2:
            write_image(tmp_path / "b.png", 7)
        if look > 6:
            raise KeyboardInterrupt

    found = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        for one in frames([str(tmp_path)], SourceConfig(watch=True, sleep=sleep)):
            found.append(one)
    assert [type(one) for one in found] == [Frame, Frame]
    assert found[1].pixels[0, 0, 0] == 7


def test_a_video_gives_its_frames(tmp_path):
    cv2 = pytest.importorskip("cv2")
    writer = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 48))
    for value in (0, 100, 200):
        writer.write(np.full((48, 64, 3), (value, 0, 0), np.uint8))  # blue, in OpenCV's order
    writer.release()
    found = list(frames([str(tmp_path / "v.avi")]))
    assert [(one.number, one.seconds) for one in found] == [(0, 0.0), (1, 0.2), (2, 0.4)]
    assert abs(int(found[2].pixels[10, 10, 2]) - 200) < 15
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    (bad,) = frames([str(tmp_path / "bad.mp4")])
    assert isinstance(bad, Unreadable)


def test_a_camera_that_drops_out_is_tried_again_after_longer_pauses(monkeypatch):
    cv2 = pytest.importorskip("cv2")
    opened = []

    class Camera:
        def __init__(self, source):
            opened.append(source)
            self.left = 2 if len(opened) in (1, 4) else 0

        def read(self):
            self.left -= 1
            return (True, np.zeros((4, 4, 3), np.uint8)) if self.left >= 0 else (False, None)

        def release(self):
            pass

    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    pauses = []
    config = SourceConfig(first_retry_s=1, last_retry_s=3, sleep=pauses.append)
    found = list(itertools.islice(frames(["0"], config), 9))
    assert [type(one) for one in found] == [Frame, Frame, *[Unreadable] * 3, Frame, Frame, Unreadable, Unreadable]
    assert opened == [0] * 5
    assert pauses == [1, 2, 3, 1]
    assert all(one.again for one in found if isinstance(one, Unreadable))


def test_ahead_gives_everything_in_order_and_passes_errors_on():
    assert list(Ahead(range(50), depth=2)) == list(range(50))
    assert list(Ahead([])) == []

    def failing():
        yield 1
        raise InputError("broken")

    found = []
    with pytest.raises(InputError, match="broken"):  # noqa: PT012
        for one in Ahead(failing()):
            found.append(one)
    assert found == [1]


def test_ahead_is_bounded_and_stops_its_thread():
    made = []

    def endless():
        for number in itertools.count():
            made.append(number)
            yield number

    ahead = Ahead(endless(), depth=3)
    for number in ahead:
        if number == 5:
            break
    time.sleep(0.3)
    assert len(made) <= 5 + 3 + 3
    assert not ahead._thread.is_alive()


def test_ahead_of_a_camera_keeps_the_newest():
    ahead = Ahead(range(100), depth=2, newest=True)
    iterator = iter(ahead)
    next(iterator)
    ahead._ended.wait(5)
    rest = list(iterator)
    assert rest[-1] == 99
    assert ahead.dropped >= 97
