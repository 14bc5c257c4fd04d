from __future__ import annotations

import pytest

from tinydet.datasets import open_dataset

FIRST, SECOND = "0--Parade/0_Parade_marchingband_1_5.jpg", "1--Handshaking/1_Handshaking_2.jpg"


@pytest.fixture
def wider(tmp_path, save_image):
    """Writes a validation file in the official layout, and two images of 60 x 40."""

    def write(text):
        for name in (FIRST, SECOND):
            save_image(tmp_path / "WIDER_val" / "images" / name)
        path = tmp_path / "wider_face_split" / "wider_face_val_bbx_gt.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return tmp_path

    return write


def test_an_empty_file(wider, only_fault):
    fault = only_fault(wider(""))
    assert (fault.kind, fault.path.name) == ("empty-file", "wider_face_val_bbx_gt.txt")


def test_the_official_layout(wider):
    faces = "4 5 16 25 0 0 0 0 0 0 \n20 2 10 10 2 0 0 1 2 0 \n30 3 0 9 0 0 0 0 0 0 \n"
    text = f"{FIRST}\n3\n{faces}{SECOND}\n0\n{'0 ' * 10}\n"
    root = wider(text)
    for path in (root, root / "wider_face_split", root / "wider_face_split" / "wider_face_val_bbx_gt.txt"):
        dataset = open_dataset(path)
        assert (dataset.faults, dataset.classes, list(dataset.splits)) == ((), ("face",), ["val"])
        first, second = dataset.split("val")
        assert first.image_id == "0--Parade/0_Parade_marchingband_1_5"
        assert first.annotations.boxes_xyxy.tolist() == [[4, 5, 20, 30], [20, 2, 30, 12]]  # no width: left out
        assert first.annotations.difficult.tolist() == [False, True]  # marked invalid
        assert (second.image_id, len(second.annotations)) == ("1--Handshaking/1_Handshaking_2", 0)


def test_an_image_without_faces_may_lack_its_line_of_zeros(wider):
    dataset = open_dataset(wider(f"{FIRST}\n0\n{SECOND}\n1\n1 2 3 4 0 0 0 0 0 0\n"))
    assert dataset.faults == ()
    assert [len(sample.annotations) for sample in dataset.split("val")] == [0, 1]


def test_faults_are_named_and_the_rest_is_read(wider):
    text = "\n".join(
        [
            "some words",
            FIRST, "4", "1 2 3 x 0 0 0 0 0 0", "55 5 20 9 0 0 0 0 0 0", "70 5 2 9 0 0 0 0 0 0", "5 5 -2 9 0 0 0 0 0 0",
            FIRST, "1", "1 2 3 4 0 0 0 0 0 0",
            "0--Parade/gone.jpg", "1", "1 2 3 4 0 0 0 0 0 0",
            SECOND, "3", "1 2 3 4 0 0 0 0 0 0",
        ]
    )  # fmt: skip
    dataset = open_dataset(wider(text))
    assert [(fault.kind, fault.line) for fault in dataset.faults] == [
        ("malformed-file", 1),
        ("malformed-file", 14),  # three faces said, one there
        ("malformed-object", 4),
        ("box-outside-image", 5),
        ("box-outside-image", 6),
        ("box-without-area", 7),
        ("duplicate-id", 8),
        ("missing-image", 11),
    ]
    assert [s.annotations.boxes_xyxy.tolist() for s in dataset.split("val")] == [[[55, 5, 60, 14]], [[1, 2, 4, 6]]]


def test_a_name_without_a_count(wider):
    dataset = open_dataset(wider(f"{FIRST}\n{SECOND}\n1\n1 2 3 4 0 0 0 0 0 0\n../../x.jpg\n"))
    assert [(fault.kind, fault.line) for fault in dataset.faults] == [("malformed-file", 1), ("malformed-file", 5)]
    assert [sample.image_id for sample in dataset.split("val")] == [SECOND.removesuffix(".jpg")]


def test_ids_are_the_names_that_the_official_evaluation_knows(shared, tmp_path, save_image):
    truth = pytest.importorskip("scipy.io").loadmat(
        shared / "data" / "wider_face_val" / "ground_truth" / "wider_face_val.mat"
    )
    event, name = truth["event_list"][0, 0][0], truth["file_list"][0, 0][0, 0][0]
    save_image(tmp_path / "WIDER_val" / "images" / event / f"{name}.jpg")
    (tmp_path / "wider_face_split").mkdir()
    text = f"{event}/{name}.jpg\n1\n1 2 30 20 0 0 0 0 0 0\n"
    (tmp_path / "wider_face_split" / "wider_face_val_bbx_gt.txt").write_text(text)
    assert [sample.image_id for sample in open_dataset(tmp_path).split("val")] == [f"{event}/{name}"]
