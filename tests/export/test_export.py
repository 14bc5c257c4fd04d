import dataclasses

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from tinydet.backbones import MobileNetConfig, ResNetConfig, VGGConfig
from tinydet.detectors import (
    FasterRCNNConfig,
    FasterRCNNFPNConfig,
    RFCNConfig,
    SSDConfig,
    build_detector,
)
from tinydet.detectors.anchors import AnchorConfig
from tinydet.detectors.proposals import ProposalConfig
from tinydet.detectors.regions import RegionConfig
from tinydet.detectors.rfcn import RFCNRegionConfig
from tinydet.errors import InputError, TinydetError
from tinydet.export import build_onnx, export_detector
from tinydet.export.agreement import agreement
from tinydet.export.export import _without_threshold
from tinydet.export.network import describe
from tinydet.preprocessing import Preprocessing
from tinydet.quantizers import PowerOfTwoQuantizerConfig, UniformQuantizerConfig
from tinydet.records import Detections
from tinydet.runtime import Detector, read_model
from tinydet.runtime.engines import OnnxRuntimeEngine, OpenVinoEngine

NAMES = ("a", "b", "c")
SMALL = Preprocessing(shorter_side=131, longer_side=220)
GRAY = Preprocessing(shorter_side=131, longer_side=220, channels="gray", mean=(120.0,), std=(60.0,))
BGR = Preprocessing(shorter_side=130, longer_side=220, channels="bgr", size_divisor=32)
FEW = ProposalConfig(AnchorConfig(sides=((24.0, 48.0),)), test_candidates=300, test_proposals=40)
PYRAMID = ProposalConfig(AnchorConfig(sides=((16.0,), (32.0,), (64.0,), (96.0,), (128.0,))), test_candidates=100)

CASES = {
    "resnet": FasterRCNNConfig(NAMES, ResNetConfig(18, 16), SMALL, FEW),
    "frozen, agnostic": FasterRCNNConfig(
        NAMES, ResNetConfig(18, 32, "frozen"), SMALL, FEW, RegionConfig(class_agnostic_boxes=True)
    ),
    "mobilenet, gray": FasterRCNNConfig(NAMES, MobileNetConfig(8), GRAY, FEW),
    "vgg, powers of two": FasterRCNNConfig(NAMES, VGGConfig(32), BGR, FEW, quantizer=PowerOfTwoQuantizerConfig()),
    "rfcn, uniform": RFCNConfig(
        NAMES, VGGConfig(32), SMALL, FEW, quantizer=UniformQuantizerConfig(0.5), hidden_channels=128
    ),
    "rfcn, a box for each class": RFCNConfig(
        NAMES, ResNetConfig(18, 16), SMALL, FEW, RFCNRegionConfig(class_agnostic_boxes=False), hidden_channels=0
    ),
    "pyramid": FasterRCNNFPNConfig(
        NAMES,
        ResNetConfig(50, 16, "frozen"),
        dataclasses.replace(SMALL, size_divisor=32),
        dataclasses.replace(PYRAMID, test_proposals=60),
    ),
    "ssd": SSDConfig(NAMES, MobileNetConfig(8)),
}


def lively(config, seed: int = 0) -> torch.nn.Module:
    """A detector of random weights whose answers differ from place to place, as a trained one's do.

    Those of R-FCN's score maps do by themselves; any larger, its scores saturate, tie, and let the last bit decide.
    """
    torch.manual_seed(seed)
    detector = build_detector(config).eval()
    spread = 0.3 if isinstance(config, SSDConfig) else 1.0  # deep and separable: values would die out
    for name, value in detector.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(torch.rand_like(value) * spread + spread / 3)
        elif name.endswith("running_mean"):
            value.copy_(torch.randn_like(value) * 0.1)
    for name, value in detector.named_parameters():
        if value.dim() > 1 and any(part in name for part in ("class_scores", "cls_logits")):
            value.data *= 30
    return detector


def photographs() -> list[Image.Image]:
    from sklearn.datasets import load_sample_images

    large = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    return [large[0].crop((100, 60, 361, 261)), large[1].crop((200, 100, 350, 401))]


@pytest.mark.parametrize("case", CASES)
def test_the_file_detects_what_torch_detects(case, tmp_path):
    # With seed 0 random R-FCN heads leave all but equal proposals, which the two engines put into different orders.
    detector = lively(CASES[case], seed=2 if "rfcn" in case else 0)
    report = export_detector(detector, tmp_path / "d.onnx", samples=photographs(), metrics={"mAP": 0.5})
    assert report.agreement.same >= 1, report.agreement
    assert report.agreement.other <= 0.02 * report.agreement.same
    assert report.agreement.max_box_difference_px < 0.05
    assert report.agreement.max_score_difference < 1e-4
    description = read_model(tmp_path / "d.onnx").description
    assert (description.classes, description.metrics) == (NAMES, {"mAP": 0.5})
    assert description.preprocessing == CASES[case].preprocessing
    assert description.parameters == sum(p.numel() for p in detector.parameters())


@pytest.mark.parametrize("case", ["frozen, agnostic", "pyramid", "ssd"])
def test_openvino_gives_the_same(case):
    pytest.importorskip("openvino")
    detector = lively(CASES[case])
    description = describe(detector, {}, {}, ())
    model = build_onnx(detector, description).SerializeToString()
    pixels = description.preprocessing(photographs()[0])
    one, two = (Detections(*engine(model, 1)(pixels)) for engine in (OnnxRuntimeEngine, OpenVinoEngine))
    found = agreement([(one, two)], description.score_threshold, description.most)
    assert found.same >= 1
    assert found.other <= max(2, 0.05 * found.same), found


@pytest.mark.parametrize("size_hw", [(131, 187), (132, 188), (133, 190), (134, 189)])
def test_the_folded_stem_is_the_plain_one_at_every_remainder(size_hw):
    config = FasterRCNNConfig(NAMES, ResNetConfig(18, 16), Preprocessing(fixed_size_hw=size_hw), FEW)
    detector = lively(config)
    model = build_onnx(detector, describe(detector, {}, {}, ()))
    assert any(list(helper.ints) == [4, 4] for node in model.graph.node for helper in node.attribute)
    features = next(node.output[0] for node in model.graph.node if node.op_type == "Conv" and "layer1" in node.input[1])
    source = next(node.input[0] for node in model.graph.node if node.output[0] == features)
    model.graph.output.append(onnx.helper.make_tensor_value_info(source, onnx.TensorProto.FLOAT, None))
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString())
    pixels = np.random.default_rng(0).integers(0, 256, (*size_hw, 3), np.uint8)
    found = session.run([source], {"image": pixels[None]})[0]
    mean, std = (torch.tensor(v)[:, None, None] for v in (config.preprocessing.mean, config.preprocessing.std))
    image = ((torch.from_numpy(pixels).permute(2, 0, 1).float() - mean) / std)[None]
    body = detector.backbone
    with torch.no_grad():
        expected = body.maxpool(body.relu(body.bn1(body.conv1(image))))
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


def test_an_image_without_detections_gives_empty_outputs(tmp_path):
    detector = lively(CASES["resnet"])
    detector.heads.class_scores.bias.data[0] = 1e4  # all is background
    model = build_onnx(detector, describe(detector, {}, {}, ())).SerializeToString()
    pixels = CASES["resnet"].preprocessing(photographs()[0])
    for engine in (OnnxRuntimeEngine(model, 1), OpenVinoEngine(model, 1)):
        boxes, scores, labels = engine(pixels)
        assert (boxes.shape, scores.shape, labels.shape) == ((0, 4), (0,), (0,))


def test_no_proposal_at_all_gives_empty_outputs():
    config = dataclasses.replace(CASES["resnet"], proposals=dataclasses.replace(FEW, smallest_side=1e6))
    detector = lively(config)
    model = build_onnx(detector, describe(detector, {}, {}, ())).SerializeToString()
    boxes, scores, _ = OnnxRuntimeEngine(model, 1)(config.preprocessing(photographs()[0]))
    assert boxes.shape == (0, 4)
    assert len(scores) == 0


def test_a_file_that_detects_something_else_is_refused(tmp_path, monkeypatch):
    detector = lively(CASES["resnet"])
    other = lively(CASES["resnet"], seed=5)
    built = build_onnx(other, describe(other, {}, {}, ()))
    monkeypatch.setattr("tinydet.export.export.build_onnx", lambda *_: built)
    with pytest.raises(TinydetError, match="was not written"):
        export_detector(detector, tmp_path / "d.onnx", samples=photographs())
    assert not (tmp_path / "d.onnx").exists()
    with pytest.raises(InputError, match="at least one image"):
        export_detector(detector, tmp_path / "d.onnx", samples=[])


def test_where_nothing_is_detected_the_proof_goes_below_the_threshold(tmp_path):
    strict = dataclasses.replace(CASES["resnet"], regions=RegionConfig(score_threshold=0.9999))
    detector = lively(strict)
    report = export_detector(detector, tmp_path / "d.onnx", samples=photographs())
    assert report.agreement.same >= 10
    assert detector.config.regions.score_threshold == 0.9999
    assert _without_threshold(detector).config.regions.score_threshold == 0


def test_the_packed_file_is_smaller_and_gives_the_same(tmp_path):
    detector = lively(CASES["resnet"])
    plain = export_detector(detector, tmp_path / "d.onnx", samples=photographs()[:1])
    packed = export_detector(detector, tmp_path / "d.tinydet", "packed", samples=photographs()[:1], run={"seed": 3})
    assert packed.file_bytes < 0.9 * plain.file_bytes
    assert read_model(tmp_path / "d.tinydet").description.run == {"seed": 3}
    one, two = (Detector(tmp_path / name, "onnxruntime", 1)(photographs()[0]) for name in ("d.onnx", "d.tinydet"))
    np.testing.assert_array_equal(one.boxes_xyxy, two.boxes_xyxy)
    np.testing.assert_array_equal(one.scores, two.scores)


def test_the_packed_graph_enlarges_images_by_itself_where_opencv_is_absent(tmp_path, monkeypatch):
    detector = lively(CASES["resnet"])
    detector.heads.class_scores.weight.data /= 30  # every class keeps a share of the score
    export_detector(detector, tmp_path / "d.tinydet", "packed", samples=photographs()[:1])
    exact = Detector(tmp_path / "d.tinydet", "onnxruntime", 1, resizing="exact")
    monkeypatch.setattr("tinydet.runtime.detector.has_opencv", lambda: False)
    alone = Detector(tmp_path / "d.tinydet", "onnxruntime", 1)
    image = photographs()[0].resize((120, 90))
    found, expected = alone(image), exact(image)
    assert min(len(found), len(expected)) >= 3
    assert np.abs(found.scores[:3] - expected.scores[:3]).max() < 0.02


def test_shared_and_pruned_weights_stay_shared_and_pruned(tmp_path):
    detector = lively(CASES["resnet"])
    weight = detector.heads.trunk.layer4[1].conv1.weight
    codebook = torch.linspace(-0.2, 0.2, 16)
    weight.data = codebook[torch.randint(16, weight.shape)] * (torch.rand_like(weight) > 0.5)
    export_detector(detector, tmp_path / "d.onnx", samples=photographs()[:1])
    model = onnx.load(tmp_path / "d.onnx")
    (stored,) = [t for t in model.graph.initializer if t.name == "heads.trunk.layer4.1.conv1.weight"]
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(stored), weight.detach().numpy())


def test_training_goes_on_as_before_after_an_export(tmp_path):
    detector = lively(CASES["resnet"]).train()
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    export_detector(detector, tmp_path / "d.onnx", samples=photographs()[:1])
    assert detector.training
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())
