"""The networks that published weights were made for, computed here and by an independent forward pass."""

import collections
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch.nn import functional as F

from tinydet.backbones import ResNetConfig
from tinydet.data.batch import Batch
from tinydet.detectors.faster_rcnn_fpn import FasterRCNNFPN, FasterRCNNFPNConfig
from tinydet.detectors.published_detector import (
    PublishedDetector,
    load_detector,
    open_detector,
    published_config,
)
from tinydet.detectors.published_weights import (
    detectron2_config,
    from_torchvision,
    read_detectron2,
    torchvision_config,
)
from tinydet.errors import InputError
from tinydet.preprocessing import Preprocessing

CLASSES = tuple(f"animal{i}" for i in range(13))


def settle(module: torch.nn.Module) -> None:
    """Random weights under which features keep their size through the network, and scores do not saturate."""
    generator = torch.Generator().manual_seed(0)
    for name, value in module.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2, generator=generator)
        elif name.endswith("running_mean") or name.endswith("bias"):
            value.normal_(0, 0.1, generator=generator)
        elif value.ndim == 1 and name.endswith("weight"):
            value.uniform_(0.2, 0.6, generator=generator)
        elif value.ndim >= 2:
            fan_in = value[0].numel()
            value.normal_(0, fan_in**-0.5, generator=generator)


def test_torchvisions_weights_compute_the_same_detections():
    theirs = torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=14, min_size=160, max_size=320
    ).eval()
    settle(theirs)
    ours = FasterRCNNFPN(torchvision_config(CLASSES)).eval()
    ours.load_state_dict(from_torchvision(theirs.state_dict()))  # strict: every weight has its place
    pixels = torch.rand(3, 160, 192, generator=torch.Generator().manual_seed(1))
    batch = Batch((pixels * 255)[None], ((160, 192),), ((160, 192),), (), ("a",), ("a",))
    with torch.no_grad():
        (found,) = ours.postprocess(ours(batch))
        (expected,) = theirs([pixels])
    assert len(expected["scores"]) >= 20
    assert len(found.scores) == len(expected["scores"])
    torch.testing.assert_close(found.scores, expected["scores"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.boxes_xyxy, expected["boxes"], rtol=1e-3, atol=0.05)
    assert torch.equal(found.labels + 1, expected["labels"])


def test_parameters_by_block_are_those_of_the_papers_table_1():
    detector = FasterRCNNFPN(torchvision_config(CLASSES))
    millions = {
        name: round(sum(p.numel() for p in block.parameters()) / 1e6, 1) for name, block in detector.blocks().items()
    }
    assert millions == {"backbone": 26.8, "proposals": 0.6, "heads": 14.0}
    assert round(sum(p.numel() for p in detector.parameters()) / 1e6, 1) == 41.4


def detectron2_layout(seed: int = 0, divisor: int = 1) -> dict[str, np.ndarray]:
    """A model in the layout of Detectron2's zoo, under its names, with random weights; its channels divided."""
    rng = np.random.default_rng(seed)
    model: dict[str, np.ndarray] = {}

    def layer(name: str, *shape: int, bias: bool = False, norm: bool = False, gain: float = 1.0) -> None:
        fan_in = int(np.prod(shape[1:]))
        model[f"{name}.weight"] = (gain * rng.normal(0, fan_in**-0.5, shape)).astype(np.float32)
        if bias:
            model[f"{name}.bias"] = rng.normal(0, 0.05, shape[0]).astype(np.float32)
        if norm:
            model[f"{name}.norm.weight"] = rng.uniform(0.6, 1.2, shape[0]).astype(np.float32)
            model[f"{name}.norm.bias"] = rng.normal(0, 0.1, shape[0]).astype(np.float32)
            model[f"{name}.norm.running_mean"] = rng.normal(0, 0.1, shape[0]).astype(np.float32)
            model[f"{name}.norm.running_var"] = rng.uniform(0.5, 1.5, shape[0]).astype(np.float32)

    up = "backbone.bottom_up"
    layer(f"{up}.stem.conv1", 64 // divisor, 3, 7, 7, norm=True, gain=0.05)
    channels = 64 // divisor
    for stage, blocks in zip(range(2, 6), (3, 4, 6, 3)):
        width = 64 // divisor * 2 ** (stage - 2)
        for block in range(blocks):
            name = f"{up}.res{stage}.{block}"
            if block == 0:
                layer(f"{name}.shortcut", width * 4, channels, 1, 1, norm=True)
            layer(f"{name}.conv1", width, channels, 1, 1, norm=True)
            layer(f"{name}.conv2", width, width, 3, 3, norm=True)
            layer(f"{name}.conv3", width * 4, width, 1, 1, norm=True, gain=0.3)
            channels = width * 4
    maps, hidden = 256 // divisor, 1024 // divisor
    for level in range(2, 6):
        layer(f"backbone.fpn_lateral{level}", maps, maps * 2 ** (level - 2), 1, 1, bias=True)
        layer(f"backbone.fpn_output{level}", maps, maps, 3, 3, bias=True)
    rpn = "proposal_generator.rpn_head"
    layer(f"{rpn}.conv", maps, maps, 3, 3, bias=True)
    layer(f"{rpn}.objectness_logits", 3, maps, 1, 1, bias=True)
    layer(f"{rpn}.anchor_deltas", 12, maps, 1, 1, bias=True, gain=0.2)
    model["proposal_generator.anchor_generator.cell_anchors.0"] = np.zeros((3, 4), np.float32)
    layer("roi_heads.box_head.fc1", hidden, maps * 49, bias=True)
    layer("roi_heads.box_head.fc2", hidden, hidden, bias=True)
    layer("roi_heads.box_predictor.cls_score", 14, hidden, bias=True, gain=3.0)
    layer("roi_heads.box_predictor.bbox_pred", 52, hidden, bias=True)
    return model


def independent_maps(w: dict[str, torch.Tensor], images_bgr: torch.Tensor) -> list[torch.Tensor]:
    """Detectron2's backbone and pyramid in plain functions, reading the file's own names."""

    def conv(x, name, stride=1, padding=0):
        x = F.conv2d(x, w[f"{name}.weight"], w.get(f"{name}.bias"), stride, padding)
        if f"{name}.norm.weight" in w:
            scale = w[f"{name}.norm.weight"] / (w[f"{name}.norm.running_var"] + 1e-5).sqrt()
            shift = w[f"{name}.norm.bias"] - w[f"{name}.norm.running_mean"] * scale
            x = x * scale[:, None, None] + shift[:, None, None]
        return x

    x = images_bgr - torch.tensor([103.530, 116.280, 123.675])[:, None, None]
    x = F.max_pool2d(conv(x, "backbone.bottom_up.stem.conv1", 2, 3).relu(), 3, 2, 1)
    stages = []
    for stage, blocks in zip(range(2, 6), (3, 4, 6, 3)):
        for block in range(blocks):
            name = f"backbone.bottom_up.res{stage}.{block}"
            stride = 2 if block == 0 and stage > 2 else 1
            y = conv(x, f"{name}.conv1", stride).relu()  # the stride is in the first 1x1
            y = conv(conv(y, f"{name}.conv2", 1, 1).relu(), f"{name}.conv3")
            x = (y + (conv(x, f"{name}.shortcut", stride) if block == 0 else x)).relu()
        stages.append(x)
    pyramid, above = [], None
    for level in range(5, 1, -1):
        lateral = conv(stages[level - 2], f"backbone.fpn_lateral{level}")
        above = lateral if above is None else lateral + F.interpolate(above, scale_factor=2, mode="nearest")
        pyramid.insert(0, conv(above, f"backbone.fpn_output{level}", 1, 1))
    return [*pyramid, F.max_pool2d(pyramid[-1], 1, 2)]


def test_detectron2s_weights_compute_the_same_network(tmp_path: Path):
    model = detectron2_layout()
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": model, "__author__": "Detectron2 Model Zoo"}))
    weights = read_detectron2(path)
    config = detectron2_config(CLASSES)
    assert config.preprocessing.channels == "bgr"
    detector = FasterRCNNFPN(config).eval()
    detector.load_state_dict(weights)  # strict: every weight has its place

    w = {name: torch.from_numpy(value) for name, value in model.items()}
    images = torch.rand(1, 3, 128, 160, generator=torch.Generator().manual_seed(2)) * 255
    batch = Batch(images, ((128, 160),), ((128, 160),), (), ("a",), ("a",))
    with torch.no_grad():
        outputs = detector(batch)
        expected = independent_maps(w, images)
        for ours, theirs in zip(outputs.features, expected):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)

        rpn = "proposal_generator.rpn_head"
        t = F.conv2d(expected[1], w[f"{rpn}.conv.weight"], w[f"{rpn}.conv.bias"], padding=1).relu()
        objectness = F.conv2d(t, w[f"{rpn}.objectness_logits.weight"], w[f"{rpn}.objectness_logits.bias"])
        first = expected[0].shape[-1] * expected[0].shape[-2] * 3
        ours = outputs.dense.logits[0, first : first + objectness.numel(), 0]
        torch.testing.assert_close(ours, objectness[0].permute(1, 2, 0).flatten(), rtol=1e-3, atol=1e-3)

        pooled = detector.pool(outputs.features, outputs.proposals_xyxy).flatten(1)
        head, predictor = "roi_heads.box_head", "roi_heads.box_predictor"
        x = F.linear(pooled, w[f"{head}.fc1.weight"], w[f"{head}.fc1.bias"]).relu()
        x = F.linear(x, w[f"{head}.fc2.weight"], w[f"{head}.fc2.bias"]).relu()
        scores = F.linear(x, w[f"{predictor}.cls_score.weight"], w[f"{predictor}.cls_score.bias"]).softmax(dim=1)
        ours = outputs.regions.logits.softmax(dim=1)
        torch.testing.assert_close(ours[:, 1:], scores[:, :-1], rtol=1e-3, atol=1e-4)  # there, background is last
        torch.testing.assert_close(ours[:, 0], scores[:, -1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_a_network_of_ones_own_size_starts_from_detectron2s_file(tmp_path: Path, channels: str):
    """In either order of channels it computes what the network of the file's own settings does."""
    model = detectron2_layout(divisor=16)
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": model}))
    plain = FasterRCNNFPNConfig(CLASSES, ResNetConfig(50, 16, "frozen"), Preprocessing(96, 160, channels=channels))
    found = open_detector(path, plain.backbone)
    assert isinstance(found, PublishedDetector)
    detector = FasterRCNNFPN(published_config(plain, found)).eval()
    result = load_detector(detector, found)
    assert result.fresh == ()
    assert result.loaded == len(model) - 1  # the anchors are not weights
    assert "its predictor of 13 classes is taken too" in str(result)
    assert detector.config.preprocessing.shorter_side == 96

    theirs = detectron2_config(CLASSES)
    reference = FasterRCNNFPN(replace(theirs, backbone=replace(theirs.backbone, width_divisor=16))).eval()
    reference.load_state_dict(read_detectron2(path))
    images = torch.rand(1, 3, 96, 128, generator=torch.Generator().manual_seed(2)) * 255
    with torch.no_grad():
        expected = reference(Batch(images, ((96, 128),), ((96, 128),), (), ("a",), ("a",)))
        own = images.flip(1) if channels == "rgb" else images
        outputs = detector(Batch(own, ((96, 128),), ((96, 128),), (), ("a",), ("a",)))
    for ours, wanted in zip(outputs.features, expected.features):
        torch.testing.assert_close(ours, wanted, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(outputs.proposals_xyxy[0], expected.proposals_xyxy[0], rtol=1e-3, atol=0.05)
    torch.testing.assert_close(outputs.regions.logits, expected.regions.logits, rtol=1e-3, atol=1e-2)


def test_a_state_dict_with_detectron2s_names_is_known_as_such(tmp_path: Path):
    """What its trainer saves: `model_final.pth`."""
    tensors = {name: torch.from_numpy(value) for name, value in detectron2_layout(divisor=16).items()}
    torch.save({"model": tensors, "iteration": 3}, tmp_path / "model_final.pth")
    found = open_detector(tmp_path / "model_final.pth", ResNetConfig(50, 16))
    assert isinstance(found, PublishedDetector)
    assert found.origin == "detectron2"
    assert torch.equal(
        found.tensors["heads.class_scores.bias"][0], tensors["roi_heads.box_predictor.cls_score.bias"][-1]
    )


def test_anchors_are_detectron2s_unrounded():
    cells = FasterRCNNFPN(detectron2_config(("x",))).proposals.get_buffer("cells_0")
    expected = []
    for ratio in (0.5, 1.0, 2.0):  # width = sqrt(area / ratio), height = ratio * width
        width = (32.0**2 / ratio) ** 0.5
        expected.append([-width / 2, -ratio * width / 2, width / 2, ratio * width / 2])
    torch.testing.assert_close(cells, torch.tensor(expected))


class CreatesAFile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


class Calls:
    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_would_run_code_is_refused_and_creates_nothing(tmp_path: Path, protocol: int):
    victim = tmp_path / "created"
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"model": {"a": np.zeros(3), "b": CreatesAFile(victim)}}, protocol=protocol))
    with pytest.raises(InputError, match="only numpy arrays"):
        read_detectron2(path)
    assert not victim.exists()


@pytest.mark.parametrize(
    ("payload", "name"),
    [
        (Calls(eval, "1"), "eval"),
        (Calls(getattr, "text", "upper"), "getattr"),
        (Calls(np.load, "/etc/hostname"), "numpy"),
        (torch.zeros(1), "torch"),
    ],
)
def test_the_message_names_what_was_asked_for(tmp_path: Path, payload, name: str):
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"model": {"a": payload}}))
    with pytest.raises(InputError, match=name):
        read_detectron2(path)


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps([1, 2]), pickle.dumps({"model": {}})])
def test_other_files_are_refused_with_their_name(tmp_path: Path, content: bytes):
    path = tmp_path / "weights.pkl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"weights\.pkl"):
        read_detectron2(path)


def test_plain_containers_are_read(tmp_path: Path):
    path = tmp_path / "weights.pkl"
    model = collections.OrderedDict({"roi_heads.box_head.fc1.weight": np.ones((2, 3), np.float32), "note": "text"})
    path.write_bytes(pickle.dumps({"model": model}, protocol=2))
    (name,) = read_detectron2(path)
    assert name == "heads.trunk.fc6.weight"
