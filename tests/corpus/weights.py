"""Weights as other programs save them, and what is none. What is seen: how many of a tiny ViT's tensors were found."""

import re
import zipfile

import numpy as np
import torch

from backbones.formats.source import Source
from tests.backbones.test_weights import prefixed, tiny_vit


def look(path):
    report = Source(path).load_into(tiny_vit(9), "tiny")
    return report.matched, report.total


def saved(content, name="file.pth"):
    def make(folder):
        torch.save(content(tiny_vit(1)), folder / name)
        return folder / name

    return make


def bytes_of(content, name="file.pth"):
    def make(folder):
        (folder / name).write_bytes(content)
        return folder / name

    return make


def cut(folder):
    path = saved(lambda vit: vit.state_dict())(folder)
    path.write_bytes(path.read_bytes()[:-2000])
    return path


def flipped(folder):
    path = saved(lambda vit: vit.state_dict())(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path


class Harm:
    def __reduce__(self):
        import os

        return os.mkdir, ("harm",)


def zipped(folder):
    with zipfile.ZipFile(folder / "file.pth", "w") as archive:
        archive.writestr("a.txt", "x")
    return folder / "file.pth"


def other_width():
    return {name: torch.zeros(7, *value.shape[1:]) for name, value in tiny_vit(1).state_dict().items()}


WHOLE = (tiny := len(tiny_vit(1).state_dict()), tiny)
NONE = re.compile("file")
ENTRIES = {
    "state dict": (saved(lambda vit: vit.state_dict()), WHOLE),
    "module": (saved(lambda vit: prefixed("module.", vit)), WHOLE),
    "compiled": (saved(lambda vit: prefixed("_orig_mod.", vit)), WHOLE),
    "compiled inside DDP": (saved(lambda vit: prefixed("module._orig_mod.", vit)), WHOLE),
    "DDP inside compiled": (saved(lambda vit: prefixed("_orig_mod.module.", vit)), WHOLE),
    "entry": (saved(lambda vit: {"state_dict": vit.state_dict(), "epoch": 3}), WHOLE),
    "entry in an entry": (saved(lambda vit: {"a": {"model": prefixed("backbone.", vit)}}), WHOLE),
    "half precision": (saved(lambda vit: {k: v.half() for k, v in vit.state_dict().items()}), WHOLE),
    "classifier beside it": (saved(lambda vit: vit.state_dict() | {"head.weight": torch.zeros(5, 24)}), WHOLE),
    "two networks": (
        saved(lambda vit: {"a": vit.state_dict(), "b": tiny_vit(2).state_dict()}),
        re.compile("choose one by --key"),
    ),
    "another width": (saved(lambda vit: other_width()), re.compile("not the weights of tiny")),
    "optimizer alone": (saved(lambda vit: {"optimizer": {"lr": 0.1}}), re.compile("no network is known in it")),
    "a tensor": (saved(lambda vit: torch.zeros(3)), NONE),
    "a list": (saved(lambda vit: [1, 2]), NONE),
    "not finite": (
        saved(lambda vit: {k: v * np.nan for k, v in vit.state_dict().items()}),
        re.compile("finite|NaN|nan"),
    ),
    "code": (
        saved(lambda vit: {"w": vit.state_dict(), "x": Harm()}),
        re.compile("refused, because reading it could run code"),
    ),
    "cut short": (cut, NONE),
    "one bit flipped": (flipped, NONE),
    "empty": (bytes_of(b""), NONE),
    "web page": (bytes_of(b"<!doctype html><title>404</title>"), NONE),
    "Git LFS pointer": (bytes_of(b"version https://git-lfs.github.com/spec/v1\nsize 9\n"), NONE),
    "another archive": (zipped, NONE),
    "safetensors, damaged": (bytes_of(b"\xff" * 40, "file.safetensors"), NONE),
    "missing": (lambda folder: folder / "file.pth", re.compile("no such weights file")),
    "folder": (lambda folder: (folder / "file").mkdir() or folder / "file", NONE),
}
