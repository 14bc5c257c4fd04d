from __future__ import annotations

import numpy as np
import pytest

from tinydet.datasets import open_dataset
from tinydet.datasets.voc import VOC_CLASSES


@pytest.fixture
def bare(tmp_path, save_image, voc_xml):
    """Writes a folder of one image and its XML, made of these objects."""

    def write(*objects, size_hw=(40, 60), text=None, image="a.jpg"):
        root = tmp_path / "bare"
        root.mkdir(exist_ok=True)
        save_image(root / image)
        (root / "a.xml").write_text(voc_xml(objects, size_hw) if text is None else text)
        return root

    return write


def test_an_empty_annotation_file_is_a_fault_with_its_path(bare, only_fault):
    fault = only_fault(bare(text=""))
    assert (fault.kind, fault.path.name) == ("empty-file", "a.xml")


def test_boxes_start_at_0_and_end_after_the_last_pixel(voc_root):
    dataset = open_dataset(voc_root)
    assert dataset.faults == ()
    assert dataset.classes == ("cat", "dog")
    assert {name: [s.image_id for s in samples] for name, samples in dataset.splits.items()} == {
        "train": ["a", "b"],
        "val": ["c.2", "d"],
        "trainval": ["a", "b", "c.2", "d"],
    }
    first, second = dataset.split("train")
    assert first.annotations.boxes_xyxy.tolist() == [[0, 0, 60, 40], [4, 5, 20, 30]]
    assert first.annotations.labels.tolist() == [0, 1]
    assert first.size_hw == (40, 60)
    assert second.annotations.difficult.tolist() == [True]
    assert len(dataset.split("val")[0].annotations) == 0
    assert dataset.split("val")[1].annotations.boxes_xyxy[0].tolist() == [1.5, 2.25, 11.75, 12.5]


@pytest.mark.parametrize(
    ("box", "kept", "kind"),
    [
        ((0, 0, 20, 30), [0, 0, 20, 30], None),  # counted from 0: one pixel outside is no fault
        ((5, 6, 61, 41), [4, 5, 60, 40], None),
        ((5, 6, 63, 30), [4, 5, 60, 30], "box-outside-image"),
        ((-3, 6, 20, 30), [0, 5, 20, 30], "box-outside-image"),
        ((70, 6, 80, 30), None, "box-outside-image"),
        ((20, 6, 19, 30), None, "box-without-area"),
        ((20, 6, 5, 30), None, "box-without-area"),
        ((20, 6, 20, 6), [19, 5, 20, 6], None),  # one pixel
        (("nan", 6, 20, 30), None, "malformed-object"),
        (("left", 6, 20, 30), None, "malformed-object"),
        (("", 6, 20, 30), None, "malformed-object"),
    ],
)
def test_faulty_boxes_are_cut_or_left_out(bare, voc_object, box, kept, kind):
    root = bare(voc_object("cat", (1, 1, 2, 2)), voc_object("cat", box))
    dataset = open_dataset(root)
    boxes = dataset.split("all")[0].annotations.boxes_xyxy.tolist()
    assert boxes == [[0, 0, 2, 2]] + ([kept] if kept else [])
    assert [fault.kind for fault in dataset.faults] == ([kind] if kind else [])
    if kind:
        assert dataset.faults[0].line == 5  # <annotation>, <filename>, <size>, first object, second
        assert dataset.faults[0].path == root / "a.xml"


def test_xml_cut_short_names_its_line_and_the_rest_is_read(voc_root):
    xml = voc_root / "Annotations" / "b.xml"
    xml.write_text("<annotation>\n<object>\n<name>dog</na")
    dataset = open_dataset(voc_root)
    assert [str(fault).split(": ")[:2] for fault in dataset.faults] == [[f"{xml}:3", "malformed-file"]]
    assert [sample.image_id for sample in dataset.split("trainval")] == ["a", "c.2", "d"]


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE x [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;">]><annotation>&b;</annotation>',
        '<!DOCTYPE x SYSTEM "file:///etc/passwd"><annotation/>',
        "<note/>",
        "just words",
        "\x00\x01\x02",
    ],
)
def test_what_is_no_plain_annotation_is_left_out(bare, only_fault, text):
    assert only_fault(bare(text=text)).kind == "malformed-file"


def test_the_images_own_size_is_believed(bare, voc_object):
    dataset = open_dataset(bare(voc_object("cat", (1, 1, 60, 40)), size_hw=(30, 50)))
    assert [(fault.kind, fault.line) for fault in dataset.faults] == [("size-differs", 3)]
    assert dataset.split("all")[0].size_hw == (40, 60)
    assert dataset.split("all")[0].annotations.boxes_xyxy.tolist() == [[0, 0, 60, 40]]


def test_no_size_is_no_fault(bare, voc_object):
    assert open_dataset(bare(voc_object(), size_hw=None)).faults == ()


def test_an_image_turned_by_exif_must_be_annotated_as_it_is_shown(tmp_path, save_image, voc_xml, voc_object):
    save_image(tmp_path / "a.jpg", (40, 60), orientation=6)
    (tmp_path / "a.xml").write_text(voc_xml([voc_object()], (40, 60)))
    dataset = open_dataset(tmp_path)
    assert [fault.kind for fault in dataset.faults] == ["rotated-image"]
    assert dataset.split("all") == ()
    (tmp_path / "a.xml").write_text(voc_xml([voc_object()], (60, 40)))
    dataset = open_dataset(tmp_path)
    assert dataset.faults == ()
    sample = dataset.split("all")[0]
    assert sample.size_hw == (60, 40) == sample.open_image().size[::-1]


def test_missing_parts_of_a_listed_set(voc_root, kinds):
    (voc_root / "Annotations" / "a.xml").unlink()
    (voc_root / "JPEGImages" / "b.jpg").unlink()
    dataset = open_dataset(voc_root)
    assert kinds(dataset) == ["missing-label", "missing-image"]
    assert [fault.line for fault in dataset.faults] == [1, 2]
    assert [sample.image_id for sample in dataset.split("trainval")] == ["c.2", "d"]


def test_missing_parts_of_a_bare_folder(bare, save_image, voc_object, kinds):
    root = bare(voc_object())
    save_image(root / "b.jpg")
    (root / "c.xml").write_text("<annotation><filename>gone.jpg</filename></annotation>")
    assert kinds(open_dataset(root)) == ["missing-image", "missing-label"]


def test_the_filename_is_followed_where_the_stem_leads_nowhere(tmp_path, save_image, voc_xml, voc_object):
    save_image(tmp_path / "images" / "photo.png")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "0001.xml").write_text(voc_xml([voc_object()], filename="photo.png"))
    dataset = open_dataset(tmp_path)
    assert dataset.split("all")[0].image == tmp_path / "images" / "photo.png"


def test_duplicates_in_lists_and_folders(voc_root, save_image):
    path = voc_root / "ImageSets" / "Main" / "train.txt"
    path.write_text("a\nb\na\n")
    save_image(voc_root / "JPEGImages" / "d.png")
    dataset = open_dataset(voc_root)
    assert [(fault.kind, fault.line) for fault in dataset.faults] == [("duplicate-id", 3), ("duplicate-id", None)]
    assert [sample.image_id for sample in dataset.split("train")] == ["a", "b"]


def test_a_list_cannot_lead_out_of_the_set(voc_root, kinds):
    (voc_root / "ImageSets" / "Main" / "train.txt").write_text("a\n../../secret\n/etc/passwd\n")
    dataset = open_dataset(voc_root)
    assert kinds(dataset) == ["malformed-file", "malformed-file"]
    assert [sample.image_id for sample in dataset.split("train")] == ["a"]


def test_an_empty_list_and_an_empty_image(voc_root, kinds):
    (voc_root / "ImageSets" / "Main" / "val.txt").write_text("")
    (voc_root / "JPEGImages" / "d.jpg").write_bytes(b"")
    assert kinds(open_dataset(voc_root)) == ["empty-file", "empty-file"]


def test_classes_asked_for_keep_their_order_and_others_are_faults(voc_root):
    assert open_dataset(voc_root, ["dog", "cat"]).split("train")[0].annotations.labels.tolist() == [1, 0]
    dataset = open_dataset(voc_root, ["dog"])
    assert [(fault.kind, fault.path.name, fault.line) for fault in dataset.faults] == [
        ("unknown-class", "a.xml", 4),
        ("unknown-class", "d.xml", 4),
        ("unknown-class", "d.xml", 5),
    ]
    assert len(dataset.split("train")[0].annotations) == 1


def test_objects_without_name_or_box_or_with_a_strange_flag(bare, voc_object, kinds):
    strange = voc_object(more="<difficult>maybe</difficult>")
    part = "<object><name>cat</name><part><bndbox><xmin>1</xmin></bndbox></part></object>"
    root = bare("<object><bndbox/></object>", part, strange)
    dataset = open_dataset(root)
    assert kinds(dataset) == ["malformed-object"] * 3
    assert [fault.line for fault in dataset.faults] == [4, 5, 6]
    assert dataset.split("all")[0].annotations.difficult.tolist() == [False]


def test_years_are_merged_and_stand_apart_too(tmp_path, voc_root):
    devkit = tmp_path / "VOCdevkit"
    devkit.mkdir()
    voc_root.rename(devkit / "VOC2007")
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (devkit / "VOC2012" / folder).mkdir(parents=True)
    for path in (devkit / "VOC2007" / "Annotations" / "a.xml", devkit / "VOC2007" / "JPEGImages" / "a.jpg"):
        target = devkit / "VOC2012" / path.parent.name / f"2008_1{path.suffix}"
        target.write_bytes(path.read_bytes())
    (devkit / "VOC2012" / "ImageSets" / "Main" / "train.txt").write_text("2008_1\n")
    for path in (devkit, tmp_path):
        dataset = open_dataset(path)
        assert dataset.classes == VOC_CLASSES
        ids = {name: [sample.image_id for sample in samples] for name, samples in dataset.splits.items()}
        assert ids["train"] == ["a", "b", "2008_1"]
        assert ids["2007_train"] == ["a", "b"]
        assert ids["2012_train"] == ["2008_1"]
        assert "2007_val" not in ids
    for path in (devkit / "VOC2012").rglob("2008_1.*"):
        path.rename(path.with_stem("a"))
    (devkit / "VOC2012" / "ImageSets" / "Main" / "train.txt").write_text("a\n")
    assert [s.image_id for s in open_dataset(devkit).split("train")] == ["2007/a", "2007/b", "2012/a"]


def test_folders_with_images_and_xml_are_splits(tmp_path, save_image, voc_xml, voc_object):
    for split, name in (("train", "a"), ("test", "b")):
        save_image(tmp_path / split / f"{name}.jpg")
        (tmp_path / split / f"{name}.xml").write_text(voc_xml([voc_object()]))
    dataset = open_dataset(tmp_path)
    assert {split: len(samples) for split, samples in dataset.splits.items()} == {"test": 1, "train": 1}


def test_class_lists_of_the_official_sets_are_no_splits(voc_root):
    main = voc_root / "ImageSets" / "Main"
    (main / "cat_train.txt").write_text("a  1\nb -1\n")
    (main / "night_train.txt").write_text("a\n")
    assert sorted(open_dataset(voc_root).splits) == ["night_train", "train", "trainval", "val"]


def test_real_sets_have_the_counts_that_their_readme_gives(shared):
    blood = open_dataset(shared / "data" / "BCCD")
    assert blood.faults == ()
    assert {name: len(samples) for name, samples in blood.splits.items()} == {
        "train": 205, "val": 87, "trainval": 292, "test": 72,
    }  # fmt: skip
    boxes = sum(len(s.annotations) for split in ("trainval", "test") for s in blood.split(split))
    assert (blood.classes, boxes) == (("Platelets", "RBC", "WBC"), 4888)
    raccoon = open_dataset(shared / "data" / "raccoon")
    assert raccoon.faults == ()
    assert (len(raccoon.split("all")), sum(len(s.annotations) for s in raccoon.split("all"))) == (200, 217)


def test_real_voc_agrees_with_a_plain_reading_of_its_files(shared):
    from xml.etree import ElementTree

    root = shared / "data" / "VOCdevkit" / "VOC2007"
    dataset = open_dataset(root)
    assert dataset.classes == VOC_CLASSES
    assert dataset.faults == ()
    for sample in dataset.split("val"):
        tree = ElementTree.parse(root / "Annotations" / f"{sample.image_id}.xml")
        boxes = [
            [int(o.findtext(f"bndbox/{t}")) for t in ("xmin", "ymin", "xmax", "ymax")] for o in tree.iter("object")
        ]
        np.testing.assert_array_equal(sample.annotations.boxes_xyxy, np.array(boxes) - [1, 1, 0, 0])
        assert [VOC_CLASSES[label] for label in sample.annotations.labels] == [
            o.findtext("name") for o in tree.iter("object")
        ]
        assert sample.annotations.difficult.tolist() == [o.findtext("difficult") == "1" for o in tree.iter("object")]
