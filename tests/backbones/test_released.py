"""Released weights by name: from a server on loopback that holds files made here, from the cache, or refused in a sentence."""

import hashlib
import socket
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from PIL import Image

import common.download
from backbones import build_backbone
from backbones.formats import released
from backbones.formats.released import PUBLISHED, find_release, is_released, release_of
from backbones.formats.source import Source
from common.errors import UsageError, UserError
from eval.core.context import make_context
from eval.core.options import WeightsOptions
from reports.visual.core.network import load_network


class Server:
    """Serves ``files`` by their last name; of those in ``cut`` only so many bytes, always."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.cut: dict[str, int] = {}
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.rpartition("/")[2]
                outer.asked.append(name)
                if name not in outer.files:
                    return self.send_error(404)
                self.send_response(200)
                self.send_header("Content-Length", str(len(outer.files[name])))
                self.end_headers()
                return self.wfile.write(outer.files[name][: outer.cut.get(name)])

            def log_message(self, *arguments):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}"


def saved(state, tmp_path) -> bytes:
    torch.save(state, tmp_path / "state.pth")
    return (tmp_path / "state.pth").read_bytes()


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server in place of the authors', and an empty cache. For speed, its files of ViT-S/16 are of the nano ViT."""
    server = Server()
    for spec, release in PUBLISHED.items():
        backbone = "vit_nano" if "vit_s16" in spec else release.backbone
        release = replace(release, url=f"{server.url}/{release.file_name}", backbone=backbone)
        monkeypatch.setitem(PUBLISHED, spec, release)
    monkeypatch.setenv("SSL_COMPARE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(common.download, "ATTEMPTS", 2)
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(1)
    return build_backbone("vit_nano", 32)


def folder(tmp_path, family="dino"):
    return tmp_path / "cache" / "weights" / family


def sentence(caught) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_fetched_once_and_then_taken_from_the_cache(server, tmp_path, vit):
    content = server.files["dino_deitsmall16_pretrain.pth"] = saved(vit.state_dict(), tmp_path)
    for _ in range(2):
        backbone = build_backbone("vit_nano", 32)
        report = Source("dino:vit_s16").load_into(backbone, "vit_nano")
        assert torch.equal(backbone.cls_token, vit.cls_token)
        assert report.matched == report.total
        assert report.source == f"dino:vit_s16, {folder(tmp_path) / 'dino_deitsmall16_pretrain.pth'}"
    assert server.asked == ["dino_deitsmall16_pretrain.pth"]
    record = (folder(tmp_path) / "dino_deitsmall16_pretrain.pth.sha256").read_text()
    assert record == f"{hashlib.sha256(content).hexdigest()}  dino_deitsmall16_pretrain.pth\n"
    assert sorted(path.name for path in folder(tmp_path).iterdir()) == [
        ".lock",
        "dino_deitsmall16_pretrain.pth",
        "dino_deitsmall16_pretrain.pth.sha256",
    ]


def test_full_checkpoint_and_its_networks(server, tmp_path, vit):
    torch.manual_seed(2)
    networks = {"student": build_backbone("vit_nano", 32), "teacher": vit}
    state = {name: {f"module.backbone.{k}": v for k, v in net.state_dict().items()} for name, net in networks.items()}
    server.files["dino_deitsmall16_pretrain_full_checkpoint.pth"] = saved(state, tmp_path)
    for key in ("student", "teacher"):
        network = load_network("dino:vit_s16:full", None, key, None, "cpu", 0)
        assert network.name == "vit_nano"
        assert torch.equal(network.backbone.cls_token, networks[key].cls_token)
        assert network.weights == f"weights of dino:vit_s16:full, {key}"


def test_every_published_name_stands_for_one_file_of_a_backbone():
    urls = [release.url for release in PUBLISHED.values()]
    assert len(set(urls)) == len(urls) == 21
    assert (
        PUBLISHED["dino:vit_b8"].url
        == "https://dl.fbaipublicfiles.com/dino/dino_vitbase8_pretrain/dino_vitbase8_pretrain.pth"
    )
    assert PUBLISHED["dino:vit_s16_gldv2"].url.endswith("/dino_vitsmall16_googlelandmark_pretrain.pth")
    assert PUBLISHED["dino:vit_s8:full"].url.endswith("/dino_deitsmall8_pretrain_full_checkpoint.pth")
    assert (
        PUBLISHED["barlow_twins:resnet50:full"].url == "https://dl.fbaipublicfiles.com/barlowtwins/ljng/checkpoint.pth"
    )
    for release in PUBLISHED.values():
        name = release.backbone
        assert name in ("vit_s16", "vit_s8", "vit_b16", "vit_b8", "resnet50") or timm.is_model(
            name.removeprefix("timm:")
        )


def test_evaluation_takes_the_backbone_that_the_name_implies(server, tmp_path, vit):
    server.files["dino_deitsmall16_pretrain.pth"] = saved(vit.state_dict(), tmp_path)
    assert Source("dino:xcit_medium_24_p8").backbone_name() == "timm:xcit_medium_24_p8_224"
    for split in ("train", "test"):
        (tmp_path / "images" / split / "cat").mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(tmp_path / "images" / split / "cat" / "1.png")
    context = make_context(
        WeightsOptions(
            weights="dino:vit_s16",
            data="imagefolder",
            data_root=tmp_path / "images",
            image_size=32,
            device="cpu",
            precision="fp32",
        )
    )
    assert context.backbone_name == "vit_nano"
    assert context.weights.startswith("48 of 48 tensors loaded from dino:vit_s16, ")
    assert context.run_dir.name == "evaluate-vit_nano-dino_vit_s16-imagefolder-0"


def test_xcit_as_its_authors_name_it(server, tmp_path):
    torch.manual_seed(3)
    trained = timm.create_model("xcit_small_12_p16_224", num_classes=0)
    state = {}
    for name, value in trained.state_dict().items():
        if ".attn.q." in name and name.startswith("cls_attn"):
            parts = [trained.state_dict()[name.replace(".q.", f".{part}.")] for part in "qkv"]
            state[name.replace(".q.", ".qkv.")] = torch.cat(parts)
        elif not (name.startswith("cls_attn") and (".attn.k." in name or ".attn.v." in name)):
            state[name.replace("pos_embed.", "pos_embeder.")] = value
    assert "pos_embeder.token_projection.weight" in state and "cls_attn_blocks.0.attn.qkv.weight" in state
    server.files["dino_xcit_small_12_p16_pretrain.pth"] = saved(state, tmp_path)
    network = load_network("dino:xcit_small_12_p16", None, None, None, "cpu", 0)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network.backbone(images), trained.eval()(images))


def test_no_network(server, tmp_path, monkeypatch, vit):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    gone = replace(PUBLISHED["dino:vit_s16"], url=f"http://127.0.0.1:{port}/dino_deitsmall16_pretrain.pth")
    monkeypatch.setitem(PUBLISHED, "dino:vit_s16", gone)
    path = folder(tmp_path) / "dino_deitsmall16_pretrain.pth"
    with pytest.raises(UserError, match="Connection refused") as caught:
        find_release("dino:vit_s16")
    assert sentence(caught).startswith(f"dino:vit_s16: {gone.url}: the connection breaks")
    assert sentence(caught).endswith(f"); nothing came; where there is no network, put that file at {path}")
    path.write_bytes(saved(vit.state_dict(), tmp_path))  # as the message says
    assert find_release("dino:vit_s16") == path
    assert path.with_name(f"{path.name}.sha256").is_file()


def test_nothing_at_the_address(server, tmp_path):
    with pytest.raises(
        UserError, match=r"barlow_twins:resnet50: http.*/resnet50.pth: the server answers 404 "
    ) as caught:
        find_release("barlow_twins:resnet50")
    assert sentence(caught).endswith(f"put that file at {folder(tmp_path, 'barlow_twins') / 'resnet50.pth'}")


def test_truncated_on_the_way_is_continued_and_never_used(server, tmp_path, vit):
    name = "dino_deitsmall16_pretrain.pth"
    server.files[name] = saved(vit.state_dict(), tmp_path)
    server.cut[name] = 1000
    with pytest.raises(UserError, match=r"the connection breaks \(1,000 of [\d,]+ bytes came\); 1,000 bytes are kept"):
        find_release("dino:vit_s16")
    assert sorted(path.name for path in folder(tmp_path).iterdir()) == [".lock", f"{name}.unchecked.part"]
    server.cut.clear()
    assert find_release("dino:vit_s16").read_bytes() == server.files[name]


def test_a_page_or_damage_in_place_of_weights_is_removed(server, tmp_path, vit):
    name = "dino_deitsmall16_pretrain.pth"
    whole = saved(vit.state_dict(), tmp_path)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for content, reason in (
        (b"<html>log in to this network</html>", "neither an archive nor a pickle"),
        (whole[: len(whole) // 2], "File is not a zip file"),
        (bytes(flipped), "has another checksum than when it was written"),
    ):
        server.files[name] = content
        with pytest.raises(UserError, match=f"is no whole weights file .*{reason}.*it was removed") as caught:
            find_release("dino:vit_s16")
        sentence(caught)
        assert [path.name for path in folder(tmp_path).iterdir()] == [".lock"]


def test_file_put_there_cut_short(server, tmp_path, vit):
    path = folder(tmp_path) / "dino_deitsmall16_pretrain.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(saved(vit.state_dict(), tmp_path)[:-1000])
    with pytest.raises(
        UserError, match=r"pretrain.pth: is no whole weights file .*; delete it, and it is fetched again"
    ) as caught:
        find_release("dino:vit_s16")
    sentence(caught)


def test_changed_after_it_came(server, tmp_path, vit):
    name = "dino_deitsmall16_pretrain.pth"
    server.files[name] = saved(vit.state_dict(), tmp_path)
    path = find_release("dino:vit_s16")
    path.write_bytes(saved({**vit.state_dict(), "cls_token": vit.cls_token + 1}, tmp_path))
    with pytest.raises(UserError, match=rf"changed since it came .*{name}.sha256 says .*; delete both") as caught:
        Source("dino:vit_s16").load_into(build_backbone("vit_nano", 32), "vit_nano")
    sentence(caught)


def test_swapped_for_another_backbone(server, tmp_path, vit):
    server.files["dino_deitsmall8_pretrain.pth"] = saved(vit.state_dict(), tmp_path)
    with pytest.raises(UserError, match=r"not the weights of vit_s8: 0 of its 150 tensors match; ") as caught:
        Source("dino:vit_s8").load_into(build_backbone("vit_s8"), "vit_s8")
    sentence(caught)


@pytest.fixture(scope="module")
def resnet18():
    torch.manual_seed(5)
    return torchvision.models.resnet18()


def test_torchvision_with_its_published_checksum(server, tmp_path, monkeypatch, resnet18):
    content = saved(resnet18.state_dict(), tmp_path)
    name = f"resnet18-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    weights = torchvision.models.ResNet18_Weights.DEFAULT
    url = f"{server.url}/{name}"
    monkeypatch.setattr(torchvision.models._api.WeightsEnum, "url", property(lambda self: url))
    assert weights.url == url
    server.files[name] = content
    assert release_of("torchvision:resnet18").sha256 == name[9:17]
    assert release_of("torchvision:resnet18.IMAGENET1K_V1").backbone == "resnet18"
    network = load_network("torchvision:resnet18", None, None, None, "cpu", 0)
    assert torch.equal(network.backbone.conv1.weight, resnet18.conv1.weight)

    path = folder(tmp_path, "torchvision") / name
    path.write_bytes(saved({"fc.bias": torch.zeros(3)}, tmp_path))
    with pytest.raises(
        UserError, match=r"not the file that was published as torchvision:resnet18 .*; delete it"
    ) as caught:
        find_release("torchvision:resnet18")
    sentence(caught)
    path.unlink()
    server.files[name] = content + b" "
    with pytest.raises(UserError, match=r"the file has the SHA-256 digest \w+, not \w{8}; it was removed") as caught:
        find_release("torchvision:resnet18")
    sentence(caught)
    assert not [path.name for path in folder(tmp_path, "torchvision").iterdir() if path.name != ".lock"]


def test_what_torchvision_publishes():
    v1 = release_of("torchvision:resnet50.IMAGENET1K_V1")
    assert (v1.file_name, v1.sha256, v1.labels, v1.remark) == ("resnet50-0676ba61.pth", "0676ba61", "all", "")
    segmentation = release_of("torchvision:deeplabv3_resnet50")
    assert segmentation.backbone == "resnet50" and "coco" in segmentation.file_name
    assert release_of("torchvision:resnet34").backbone == "timm:resnet34"
    with pytest.raises(UsageError, match="unknown weights of torchvision's resnet50 'V3'"):
        release_of("torchvision:resnet50.V3")
    with pytest.raises(UsageError, match="did you mean resnet50"):
        release_of("torchvision:resnet5")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of the Hugging Face hub, which is offline: ``hub(repository, state)`` puts a file there."""
    monkeypatch.setenv("SSL_COMPARE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    def put(repository, state):
        content = safetensors.torch.save(state)
        home = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        commit, blob = "1" * 40, home / "blobs" / hashlib.sha256(content).hexdigest()
        for path in (home / "refs" / "main", home / "snapshots" / commit / "model.safetensors", blob):
            path.parent.mkdir(parents=True)
        (home / "refs" / "main").write_text(commit)
        blob.write_bytes(content)
        (home / "snapshots" / commit / "model.safetensors").symlink_to(blob)
        return blob

    return put


def test_timm_from_the_hub(hub, tmp_path):
    torch.manual_seed(6)
    trained = timm.create_model("resnet10t", num_classes=10)
    blob = hub("timm/resnet10t.c3_in1k", trained.state_dict())
    network = load_network("timm:resnet10t.c3_in1k", None, None, 64, "cpu", 0)
    assert network.name == "timm:resnet10t"
    assert torch.equal(network.backbone.model.layer1[0].conv1.weight, trained.layer1[0].conv1.weight)
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    with pytest.raises(UserError, match=r"damaged \(its SHA-256 digest is .*; delete it, and it is fetched again"):
        find_release("timm:resnet10t.c3_in1k")


def test_timm_without_a_network(hub, tmp_path):
    path = folder(tmp_path, "timm") / "resnet10t.c3_in1k.safetensors"
    with pytest.raises(UserError, match=r"timm/resnet10t.c3_in1k cannot be had from the Hugging Face hub \(") as caught:
        find_release("timm:resnet10t")
    assert sentence(caught).endswith(f"put timm/resnet10t.c3_in1k's model.safetensors at {path}")
    safetensors.torch.save_file(timm.create_model("resnet10t").state_dict(), path)
    assert find_release("timm:resnet10t.c3_in1k") == path


def test_other_normalisation_is_told():
    remark = release_of("timm:vit_small_patch16_224.augreg_in1k").remark
    assert remark.startswith("trained on images normalised by mean 0.5 0.5 0.5 and std 0.5 0.5 0.5")
    assert release_of("timm:vit_small_patch16_224.dino").remark == ""
    assert release_of("timm:vit_small_patch16_224.dino").labels == "none"


def test_names(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="unknown released weights 'dino:vit_s9'; did you mean dino:vit_s"):
        release_of("dino:vit_s9")
    with pytest.raises(UsageError, match="unknown timm model 'resnet5o'; did you mean timm:resnet50"):
        release_of("timm:resnet5o")
    with pytest.raises(UsageError, match="timm's resnet50 has no weights 'mine'"):
        release_of("timm:resnet50.mine")
    monkeypatch.chdir(tmp_path)
    assert is_released("dino:vit_s8") and not is_released("dino") and not is_released(None)
    (tmp_path / "dino:vit_s8").write_bytes(b"")
    assert not is_released("dino:vit_s8")
    assert released.FAMILIES == ("dino", "barlow_twins", "timm", "torchvision", "hf")
