import functools
import hashlib
import http.server
import json
import logging
import threading
from dataclasses import replace

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from tinydet.backbones import MobileNetConfig, ResNetConfig, VGGConfig
from tinydet.backbones.pretrained import load_pretrained, pretrained_preprocessing, published_tensors
from tinydet.backbones.weight_files import IMAGENET_SCALING, WeightFile, imagenet_url, open_weights
from tinydet.detectors import RFCN, FasterRCNN, FasterRCNNConfig, FasterRCNNFPNConfig, RFCNConfig, build_detector
from tinydet.detectors.regions import RegionConfig
from tinydet.errors import InputError, TinydetError
from tinydet.preprocessing import Preprocessing
from tinydet.training.checkpoint import save_checkpoint

GRAY = Preprocessing(channels="gray", mean=(120.0,), std=(60.0,))


@pytest.fixture(scope="module")
def resnet18():
    """torchvision's network with weights by chance, and statistics that are not 0 and 1."""
    torch.manual_seed(0)
    network = torchvision.models.resnet18().train()
    with torch.no_grad():
        network(torch.randn(4, 3, 64, 64))
    return network.eval()


def test_a_detector_computes_what_torchvisions_network_does(resnet18, tmp_path):
    torch.save(resnet18.state_dict(), tmp_path / "resnet18.pth")
    detector = FasterRCNN(FasterRCNNConfig(("x",))).eval()
    result = load_pretrained(detector, tmp_path / "resnet18.pth")
    assert (result.missing, result.wrong_shape, result.unused) == ((), (), ("fc.bias", "fc.weight"))
    images = torch.randn(1, 3, 64, 64)
    x = resnet18.maxpool(resnet18.relu(resnet18.bn1(resnet18.conv1(images))))
    x = resnet18.layer3(resnet18.layer2(resnet18.layer1(x)))
    torch.testing.assert_close(detector.backbone(images)[0], x)
    torch.testing.assert_close(detector.heads.trunk(x), resnet18.avgpool(resnet18.layer4(x)).flatten(1))


@pytest.mark.parametrize(
    "config",
    [
        FasterRCNNFPNConfig(("x",), ResNetConfig(18, normalization="frozen")),
        RFCNConfig(("x",), ResNetConfig(18)),
    ],
)
def test_every_detector_of_that_backbone_takes_all_of_it(resnet18, config):
    detector = build_detector(config)
    result = load_pretrained(detector, WeightFile("resnet18", resnet18.state_dict()))
    assert len(result.loaded) == sum(not n.endswith("batches_tracked") for n in resnet18.state_dict()) - 2
    state = detector.state_dict()
    last = "heads.trunk.layer4.1.conv2.weight" if isinstance(detector, RFCN) else "backbone.body.layer4.1.conv2.weight"
    assert torch.equal(state[last], resnet18.state_dict()["layer4.1.conv2.weight"])


def test_one_channel_sees_a_gray_image_as_three_did(resnet18):
    """With one mean and deviation for all channels, the sum over them is exact."""
    gray = FasterRCNN(FasterRCNNConfig(("x",), preprocessing=GRAY)).eval()
    load_pretrained(gray, WeightFile("resnet18", resnet18.state_dict()))
    image = torch.randn(1, 1, 64, 64)
    torch.testing.assert_close(
        gray.backbone.conv1(image), resnet18.conv1(image.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5
    )


def test_bgr_takes_the_channels_in_its_order(resnet18):
    bgr = Preprocessing(channels="bgr")
    detector = FasterRCNN(FasterRCNNConfig(("x",), preprocessing=bgr)).eval()
    load_pretrained(detector, WeightFile("resnet18", resnet18.state_dict()))
    image = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(detector.backbone.conv1(image.flip(1)), resnet18.conv1(image), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("normalization", ["none", "batch"])
def test_a_vgg_computes_what_torchvisions_does(normalization):
    torch.manual_seed(0)
    layers = torchvision.models.vgg.make_layers(
        torchvision.models.vgg.cfgs["D"], batch_norm=normalization == "batch"
    ).eval()
    weights = {f"features.{name}": tensor for name, tensor in layers.state_dict().items()}
    detector = RFCN(RFCNConfig(("x",), VGGConfig(1, normalization))).eval()
    result = load_pretrained(detector, WeightFile("vgg", weights))
    assert (result.missing, result.unused, result.wrong_shape) == ((), (), ())
    images = torch.randn(1, 3, 48, 48)
    torch.testing.assert_close(detector.backbone(images)[0], layers[:-1](images))


def test_fully_connected_layers_load_where_their_size_allows():
    torch.manual_seed(0)
    config = FasterRCNNConfig(("x",), VGGConfig(16))
    trained = FasterRCNN(config)
    weights = published_tensors(trained, config.backbone)
    assert weights["classifier.0.weight"].shape == (256, 32 * 49)
    same = FasterRCNN(config)
    assert load_pretrained(same, WeightFile("w", weights)).wrong_shape == ()
    assert torch.equal(same.heads.trunk.fc7.weight, trained.heads.trunk.fc7.weight)
    fewer_bins = FasterRCNN(replace(config, regions=RegionConfig(output_size=3)))
    result = load_pretrained(fewer_bins, WeightFile("w", weights))
    assert result.wrong_shape == ("classifier.0.weight is [256, 1568], the network's is [256, 288]",)


@pytest.fixture(scope="module")
def mobilenet_file(shared):
    return shared / "weights" / "mobilenet_v1_1.0_imagenet.safetensors"


def by_its_definition(weights, images, last):
    """conv1 and the depthwise-separable blocks in float64, from the tensors alone (Howard et al. 2017, Table 1)."""

    def norm(x, name):
        w = {kind: weights[f"{name}_bn.{kind}"].double() for kind in ("running_mean", "running_var", "weight", "bias")}
        return F.batch_norm(x, w["running_mean"], w["running_var"], w["weight"], w["bias"], eps=1e-3).clamp(0, 6)

    x = norm(F.conv2d(images, weights["conv1.weight"].double(), stride=2, padding=1), "conv1")
    for block in range(1, last + 1):
        stride = 2 if block in (2, 4, 6, 12) else 1
        w = weights[f"conv_dw_{block}.weight"].double()
        x = norm(F.conv2d(x, w, stride=stride, padding=1, groups=len(w)), f"conv_dw_{block}")
        x = norm(F.conv2d(x, weights[f"conv_pw_{block}.weight"].double()), f"conv_pw_{block}")
    return x


def test_the_published_mobilenet_loads_and_names_what_it_lacks(mobilenet_file, caplog):
    config = FasterRCNNConfig(("x",), MobileNetConfig(1, "frozen"))
    detector = FasterRCNN(config).eval()
    with caplog.at_level(logging.WARNING):
        result = load_pretrained(detector, mobilenet_file)
    assert result.missing == ("conv_pw_13.weight",)
    assert "conv_pw_13.weight" in caplog.text
    assert "1 missing" in str(result)
    assert set(result.unused) == {
        *("conv_preds.bias", "conv_preds.weight"),
        *(f"conv_pw_13_bn.{kind}" for kind in ("bias", "running_mean", "running_var", "weight")),
    }
    assert len(result.loaded) == 136 - 6
    assert (detector.heads.trunk.blocks.conv_pw_13_bn.running_var == 1).all()

    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, 3, 64, 96, generator=generator, dtype=torch.float64) * 2 - 1
    expected = by_its_definition(load_file(mobilenet_file), images, last=11)
    torch.testing.assert_close(detector.double().backbone(images)[0], expected)
    wanted = pretrained_preprocessing(Preprocessing(shorter_side=320), config.backbone, mobilenet_file)
    assert (wanted.mean, wanted.std, wanted.shorter_side) == ((127.5,) * 3, (127.5,) * 3, 320)


def test_preprocessing_follows_the_weights():
    bgr = pretrained_preprocessing(Preprocessing(channels="bgr"), ResNetConfig())
    assert (bgr.mean, bgr.std) == (IMAGENET_SCALING.mean[::-1], IMAGENET_SCALING.std[::-1])
    gray = pretrained_preprocessing(GRAY, VGGConfig())
    assert gray.mean == pytest.approx((0.299 * 123.675 + 0.587 * 116.28 + 0.114 * 103.53,))


def test_weights_of_another_width_are_refused(resnet18, tmp_path):
    torch.save(resnet18.state_dict(), tmp_path / "resnet18.pth")
    narrow = FasterRCNN(FasterRCNNConfig(("x",), ResNetConfig(18, 16)))
    before = narrow.backbone.conv1.weight.clone()
    with pytest.raises(InputError, match=r"none of its weights fits.*conv1.weight is \[64, 3, 7, 7\].*divisor is 16"):
        load_pretrained(narrow, tmp_path / "resnet18.pth")
    assert torch.equal(narrow.backbone.conv1.weight, before)
    vgg = FasterRCNN(FasterRCNNConfig(("x",), VGGConfig(16)))
    with pytest.raises(InputError, match=r"it has .*conv1.weight.* VGG wants features.0.weight"):
        load_pretrained(vgg, tmp_path / "resnet18.pth")


def test_a_checkpoint_of_a_detector_gives_its_backbone_to_another(tmp_path):
    torch.manual_seed(0)
    preprocessing = Preprocessing(mean=(1.0, 2, 3), std=(4.0, 5, 6))
    config = FasterRCNNConfig(("x",), ResNetConfig(18, 16), preprocessing)
    first = FasterRCNN(config)
    save_checkpoint(tmp_path / "run" / "best", first)
    second = RFCN(RFCNConfig(("y", "z"), config.backbone))
    load_pretrained(second, tmp_path / "run")
    assert torch.equal(second.backbone.layer3[0].conv1.weight, first.backbone.layer3[0].conv1.weight)
    wanted = pretrained_preprocessing(Preprocessing(), config.backbone, tmp_path / "run")
    assert (wanted.mean, wanted.std) == (preprocessing.mean, preprocessing.std)


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


def test_a_download_is_checked_and_kept(server):
    folder, url = server
    config = FasterRCNNConfig(("x",), ResNetConfig(18, 32))
    trained = FasterRCNN(config)
    file = folder / "tiny.safetensors"
    save_file(published_tensors(trained, config.backbone), file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    source = f"{url}/tiny.safetensors#sha256={digest}"
    other = FasterRCNN(config)
    load_pretrained(other, source)
    assert torch.equal(other.backbone.conv1.weight, trained.backbone.conv1.weight)
    file.unlink()
    assert len(open_weights(source, config.backbone).tensors) == len(published_tensors(trained, config.backbone))
    with pytest.raises(TinydetError, match="cannot be fetched"):
        open_weights(f"{url}/absent.safetensors", config.backbone)


def test_a_wrong_checksum_leaves_nothing(server):
    folder, url = server
    (folder / "a.pth").write_bytes(b"not what was promised")
    with pytest.raises(TinydetError, match="hash"):
        open_weights(f"{url}/a.pth#sha256={'0' * 64}", ResNetConfig())
    assert list((folder.parent / "cache" / "checkpoints").iterdir()) == []
    with pytest.raises(InputError, match="sha256=HEX"):
        open_weights(f"{url}/a.pth#md5=123", ResNetConfig())


def test_imagenet_is_torchvisions_file_checked_by_its_name(server, monkeypatch, resnet18):
    folder, url = server
    torch.save(resnet18.state_dict(), folder / "plain.pth")
    digest = hashlib.sha256((folder / "plain.pth").read_bytes()).hexdigest()[:8]
    (folder / "plain.pth").rename(folder / f"resnet18-{digest}.pth")
    monkeypatch.setattr("tinydet.backbones.weight_files.imagenet_url", lambda _: f"{url}/resnet18-{digest}.pth")
    assert "layer4.1.conv2.weight" in open_weights("imagenet", ResNetConfig()).tensors
    monkeypatch.setattr("tinydet.backbones.weight_files.imagenet_url", lambda _: f"{url}/resnet18-00000000.pth")
    (folder / f"resnet18-{digest}.pth").rename(folder / "resnet18-00000000.pth")
    with pytest.raises(TinydetError, match="hash"):
        open_weights("imagenet", ResNetConfig())


def test_which_imagenet_weights():
    assert [imagenet_url(c).rpartition("/")[2].partition("-")[0] for c in (ResNetConfig(18), ResNetConfig(50))] == [
        "resnet18",
        "resnet50",
    ]
    assert "vgg16-" in imagenet_url(VGGConfig(normalization="none"))
    assert "vgg16_bn-" in imagenet_url(VGGConfig())
    with pytest.raises(InputError, match="no weights for MobileNetV1"):
        imagenet_url(MobileNetConfig())


@pytest.mark.parametrize(
    "name", ["empty.safetensors", "empty.pth", "text.pth", "list.pth", "code.pth", "header.safetensors"]
)
def test_files_that_are_no_weights(name, tmp_path):
    path = tmp_path / name
    contents = {"text.pth": b"hello", "list.pth": b"", "code.pth": b""}
    path.write_bytes(contents.get(name, b""))
    if name == "list.pth":
        torch.save([torch.zeros(1)], path)
    if name == "code.pth":
        torch.save({"a": torch.nn.Linear(1, 1)}, path)  # a pickled object, not tensors
    if name == "header.safetensors":
        save_file({"a": torch.zeros(1)}, path, {"tinydet": json.dumps({"preprocessing": {}})})
    with pytest.raises(InputError, match=name):
        open_weights(path, ResNetConfig())
    with pytest.raises(InputError, match="no such file"):
        open_weights(tmp_path / "absent.pth", ResNetConfig())
    with pytest.raises(InputError, match="not a checkpoint"):
        open_weights(tmp_path, ResNetConfig())
