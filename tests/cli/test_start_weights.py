"""`--weights` with a whole published Faster R-CNN: torchvision's layout, thin, from a file or a server."""

from __future__ import annotations

import functools
import hashlib
import http.server
import pickle
import threading
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torchvision.ops import FrozenBatchNorm2d

from tinydet.backbones import ResNetConfig
from tinydet.cli.starting_network import starting_network
from tinydet.cli.training_options import NetworkOptions
from tinydet.detectors import published_detector
from tinydet.errors import InputError, TinydetError

DIVISOR = 16
_NOT_CHANNELS = (1, 3, 7, 12, 91, 364)  # kernels, colours, anchors, classes


@pytest.fixture(scope="module")
def thin() -> dict[str, torch.Tensor]:
    """Every tensor of torchvision's network by its own name, its channels divided by 16, of random numbers."""
    with torch.device("meta"):
        network = torchvision.models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, full in network.state_dict().items():
        shape = [size if size in _NOT_CHANNELS else size // DIVISOR for size in full.shape]
        tensors[name] = torch.randn(shape, generator=generator) * 0.1
        if name.endswith("running_var"):
            tensors[name] = torch.rand(shape, generator=generator) * 0.001 + 0.0001
    return tensors


def options(weights: object, **said) -> NetworkOptions:
    chosen = {"shorter_side": 64, "width": float(DIVISOR)} | said
    return NetworkOptions("faster_rcnn_fpn", "resnet50", weights=str(weights), **chosen)


def classes(count: int) -> tuple[str, ...]:
    return tuple(f"class {index}" for index in range(count))


SAME_TENSOR = {
    "backbone.body.conv1.weight": "backbone.body.conv1.weight",
    "backbone.body.layer4.2.bn3.running_mean": "backbone.body.layer4.2.bn3.running_mean",
    "backbone.fpn.layer_blocks.3.0.bias": "backbone.fpn.layer_blocks.3.0.bias",
    "proposals.head.conv.0.0.weight": "rpn.head.conv.0.0.weight",
    "proposals.head.bbox_pred.weight": "rpn.head.bbox_pred.weight",
    "heads.trunk.fc6.weight": "roi_heads.box_head.fc6.weight",
    "heads.trunk.fc7.bias": "roi_heads.box_head.fc7.bias",
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_all_but_the_predictor_of_other_classes_is_taken(thin, tmp_path, capsys, suffix):
    path = tmp_path / f"detector{suffix}"
    save_file(thin, path) if suffix == ".safetensors" else torch.save(thin, path)
    detector = starting_network(options(path), classes(2), seed=0).detector
    own = detector.state_dict()
    for name, theirs in SAME_TENSOR.items():
        assert torch.equal(own[name], thin[theirs]), name
    assert own["heads.class_scores.weight"].shape == (3, 64)
    printed = capsys.readouterr().err
    assert f"{len(own) - 4} tensors loaded" in printed
    assert "its predictor of 90 classes starts fresh" in printed
    assert "also fresh" not in printed
    assert detector.config.proposals.anchors.sides == ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))
    assert detector.config.backbone == ResNetConfig(50, DIVISOR, "frozen")


def test_the_predictor_of_as_many_classes_is_taken_without_the_backgrounds_box(thin, tmp_path, capsys):
    torch.save(thin, tmp_path / "detector.pth")
    chosen = options(tmp_path / "detector.pth", shorter_side=None)
    detector = starting_network(chosen, classes(90), seed=0).detector
    assert torch.equal(detector.heads.class_scores.weight, thin["roi_heads.box_predictor.cls_score.weight"])
    assert torch.equal(detector.heads.box_deltas.bias, thin["roi_heads.box_predictor.bbox_pred.bias"][4:])
    assert "its predictor of 90 classes is taken too" in capsys.readouterr().err
    assert (detector.config.preprocessing.shorter_side, detector.config.preprocessing.longer_side) == (800, 1333)


def test_what_else_does_not_fit_is_named(thin, tmp_path, capsys):
    torch.save(thin, tmp_path / "detector.pth")
    chosen = options(tmp_path / "detector.pth", bins=5, anchor_ratios="1", gray=True, class_agnostic_boxes=True)
    detector = starting_network(chosen, classes(90), seed=0).detector
    printed = capsys.readouterr().err
    assert "heads.trunk.fc6.weight ([64, 784] there, [64, 400] here)" in printed
    assert "proposals.head.cls_logits.weight" in printed
    assert detector.config.regions.class_agnostic_boxes
    assert detector.heads.box_deltas.weight.shape == (4, 64)
    torch.testing.assert_close(
        detector.backbone.body.conv1.weight, thin["backbone.body.conv1.weight"].sum(dim=1, keepdim=True)
    )


def test_another_backbone_is_refused(thin, tmp_path):
    torch.save(thin, tmp_path / "detector.pth")
    for said in ({"width": 8.0}, {"backbone": "resnet18"}):
        chosen = NetworkOptions(
            **{"detector": "faster_rcnn_fpn", "backbone": "resnet50", "width": 16.0, "shorter_side": 64} | said,
            weights=str(tmp_path / "detector.pth"),
        )
        with pytest.raises(InputError, match=r"detector\.pth"):
            starting_network(chosen, classes(2), seed=0)


def test_a_backbones_weights_are_that_still(thin, tmp_path, capsys):
    body = {name.removeprefix("backbone.body."): x for name, x in thin.items() if name.startswith("backbone.body.")}
    torch.save(body, tmp_path / "resnet50.pth")
    detector = starting_network(options(tmp_path / "resnet50.pth"), classes(2), seed=0).detector
    assert torch.equal(detector.backbone.body.conv1.weight, body["conv1.weight"])
    weights = [name for name in body if not name.endswith("num_batches_tracked")]
    assert f"{len(weights)} tensors loaded, 0 missing" in capsys.readouterr().err
    assert detector.config.proposals.anchors.sides[0] == (32 * 64 / 800,)  # as for a network of one's own


def test_cocos_norms_compute_without_eps_as_torchvision_has_them(thin, tmp_path):
    path = tmp_path / "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth"
    torch.save(thin, path)
    own = starting_network(options(path), classes(2), seed=0).detector.backbone.body.bn1
    theirs = FrozenBatchNorm2d(4, eps=0.0)
    theirs.load_state_dict({kind: thin[f"backbone.body.bn1.{kind}"] for kind in theirs.state_dict()})
    images = torch.randn(1, 4, 5, 5, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(own(images), theirs(images))
    assert not torch.allclose(own.weight, theirs.weight, rtol=1e-3)


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A folder that is served, its URL, and an empty cache."""
    folder = tmp_path / "served"
    folder.mkdir()
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "cache"))
    handler = functools.partial(_Handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()


def test_the_words_stand_for_files_that_are_downloaded_and_checked(thin, server, monkeypatch, capsys):
    folder, url = server
    torch.save(thin, folder / "coco.pth")
    digest = hashlib.sha256((folder / "coco.pth").read_bytes()).hexdigest()
    monkeypatch.setitem(published_detector.PUBLISHED, "coco", f"{url}/coco.pth#sha256={digest}")
    detector = starting_network(options("coco"), classes(2), seed=0).detector
    assert torch.equal(detector.heads.trunk.fc7.weight, thin["roi_heads.box_head.fc7.weight"])
    assert "tinydet: coco: " in capsys.readouterr().err
    monkeypatch.setitem(published_detector.PUBLISHED, "coco", f"{url}/coco.pth#sha256={'0' * 64}")
    with pytest.raises(TinydetError, match="hash"):
        starting_network(options("coco"), classes(2), seed=0)


def test_a_pickle_from_a_server_runs_nothing(server, tmp_path, monkeypatch):
    folder, url = server
    victim = tmp_path / "created"

    class CreatesAFile:
        def __reduce__(self):
            return (Path.touch, (victim,))

    (folder / "model.pkl").write_bytes(pickle.dumps({"model": {"a": CreatesAFile()}}))
    monkeypatch.setitem(published_detector.PUBLISHED, "detectron2", f"{url}/model.pkl")
    for source in ("detectron2", f"{url}/model.pkl"):
        with pytest.raises(InputError, match="only numpy arrays"):
            starting_network(options(source), classes(2), seed=0)
    assert not victim.exists()
    with pytest.raises(TinydetError, match="cannot be fetched"):
        starting_network(options(f"{url}/absent.pkl"), classes(2), seed=0)


def test_the_published_addresses():
    assert published_detector.PUBLISHED["coco"].partition("#")[0].endswith("/fasterrcnn_resnet50_fpn_coco-258fb6c6.pth")
    assert "/detectron2/COCO-Detection/faster_rcnn_R_50_FPN_3x/" in published_detector.PUBLISHED["detectron2"]


def test_one_command_trains_from_them(cli, photos, thin, tmp_path):
    torch.save({"model": thin, "epoch": 3}, tmp_path / "detector.pth")
    ran = cli(
        *("train", "--data", photos, "--out", tmp_path / "run", "--weights", tmp_path / "detector.pth"),
        *("--detector", "faster_rcnn_fpn", "--backbone", "resnet50", "--width", DIVISOR, "--shorter-side", "64"),
        *("--iterations", "1", "--device", "cpu"),
    )
    assert ran.status == 0, ran.err
    assert "its predictor of 90 classes starts fresh" in ran.err
