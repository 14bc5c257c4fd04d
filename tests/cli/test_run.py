from __future__ import annotations

import json

import pytest

TABLE_7 = ("teacher", "teacher_quantized", "scratch", "quantization_mimic")


def test_recipes_are_listed_with_the_papers_numbers(cli, tmp_path):
    ran = cli("recipes", "--json", tmp_path / "recipes.json")
    assert ran.status == 0
    listed = {recipe["name"]: recipe for recipe in json.loads((tmp_path / "recipes.json").read_text())}
    tables = {f"quantization_mimic.{table}" for table in ("table7", "table8", "table9", "reproduction")}
    assert tables | {"digits"} <= set(listed)
    table_7 = listed["quantization_mimic.table7"]
    assert [float(value) for value in table_7["numbers"].values()] == [72.9, 73.3, 40.5, 47.0]
    assert [float(value) for value in listed["quantization_mimic.table9"]["numbers"].values()][-3:] == [
        44.1,
        47.0,
        43.0,
    ]
    assert list(listed["kd_ssd.table1"]["numbers"].values()) == ["69.7; 9 ms", "67.5; 5 ms", "68.0; 5 ms"]
    assert {"comparison.ssd", "comparison.faster_rcnn"} <= set(listed)
    assert all(recipe["cost"] for recipe in listed.values())
    assert "table7" in ran.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--seeds", "a"), "seeds 'a'"),
        (("--seeds", "0,0"), "each once"),
        (("--seeds", "-1"), "seed"),
        (("--budget", "0"), "budget 0"),
        (("--budget", "nan"), "budget nan"),
        (("--shorter-side", "5"), "shorter side 5"),
        (("--teacher-width", "0"), "teacher width 0"),
        (("--student-width", "nan"), "student width nan"),
        (("--batch-size", "0"), "batch size 0"),
        (("--learning-rate", "nan"), "learning rate nan"),
        (("--lambda", "-1"), "mimic weight -1"),
        (("--quantizer-stride", "0"), "quantizer stride 0"),
        (("--latency-images", "-1"), "latency images -1"),
        (("--backbone", "alexnet"), "backbone 'alexnet': expected one of resnet18"),
        (("--default-boxes", "2000"), "default boxes 2000: expected one of 1917, 3000"),
        (("--frozen-blocks", "3"), "frozen blocks 3: random weights are not worth keeping"),
        (("--device", "gpu"), "device 'gpu': expected one of auto, cpu, cuda"),
        (("--anchor-sides", "a"), "anchor sides 'a': expected numbers"),
        (("--teacher", "nowhere"), "nowhere: no such checkpoint"),
        (("--test-split", "tset"), "no split 'tset'"),
    ],
)
def test_wrong_options(cli, photos, tmp_path, options, message):
    ran = cli("run", "quantization_mimic.table7", "--data", photos, "--out", tmp_path / "run", *options)
    assert ran.status == 2
    assert message in ran.err
    assert not (tmp_path / "run" / "teacher").exists()


def test_an_unknown_recipe_lists_those_there_are(cli, tmp_path):
    ran = cli("run", "table7", "--out", tmp_path / "run")
    assert ran.status == 2
    assert "quantization_mimic.table7" in ran.err


def test_a_teacher_of_other_classes(cli, trained, photos, tmp_path):
    for label in photos.glob("*.xml"):
        label.write_text(label.read_text().replace(">red<", ">pin<").replace(">green<", ">needle<"))
    command = ("run", "quantization_mimic.table7", "--data", photos, "--out", tmp_path / "run", "--teacher", trained)
    ran = cli(*command, "--budget", "0.0001")
    assert ran.status == 2
    assert "a teacher of green, red; the data has needle, pin" in ran.err


@pytest.mark.slow
def test_a_table_of_the_paper_on_a_folder_of_photographs(cli, photos, tmp_path):
    out = tmp_path / "run"
    command = (
        *("run", "quantization_mimic.table7", "--data", photos, "--out", out, "--budget", "0.0001", "--seeds", "0,1"),
        *("--teacher-width", "16", "--student-width", "32", "--shorter-side", "64", "--regions", "16"),
        *("--latency-images", "1", "--device", "cpu"),
    )
    ran = cli(*command, "--json", tmp_path / "summary.json")
    assert ran.status == 0, ran.err
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [variant["name"] for variant in summary["variants"]] == list(TABLE_7)
    assert [variant["paper"]["mAP"] for variant in summary["variants"]] == [0.729, 0.733, 0.405, 0.47]
    assert [len(variant["seeds"]) for variant in summary["variants"]] == [1, 1, 2, 2]
    for variant in summary["variants"]:
        assert set(variant["AP_per_class"]) <= {"green", "red"}
        assert variant["parameters"] > 0
        assert variant["multiply_adds"] > 0
    assert (out / "report.html").is_file()

    again = cli(*command)  # finds everything done
    assert again.status == 0, again.err
    other = cli(*command[:-2], "--device", "cpu", "--learning-rate", "0.5")
    assert other.status == 2
    assert "holds another run" in other.err
