"""Networks for which no trained weights are at hand: ResNets, MobileNetV2 and ViTs with the tensor names of torchvision
and timm, weights and images from `formula.py`, logits in f64."""

import hashlib
import json

import numpy as np
import torch
from torch import nn

import container
import formula


def conv_norm(n_in, n_out, kernel, stride=1, groups=1):
    """Convolution without bias, padded to keep the size at stride 1, and its batch norm (eps 1e-5)."""
    conv = nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return conv, nn.BatchNorm2d(n_out)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (ResNet-18, -34)."""

    expansion = 1

    def __init__(self, n_in, width, stride):
        super().__init__()
        self.conv1, self.bn1 = conv_norm(n_in, width, 3, stride)
        self.conv2, self.bn2 = conv_norm(width, width, 3)
        self.downsample = shortcut(n_in, width, stride)

    def forward(self, x):
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y))
        return (y + self.downsample(x)).relu()


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 around a shortcut (ResNet-50), version 1.5: the stride is on the 3x3."""

    expansion = 4

    def __init__(self, n_in, width, stride):
        super().__init__()
        self.conv1, self.bn1 = conv_norm(n_in, width, 1)
        self.conv2, self.bn2 = conv_norm(width, width, 3, stride)
        self.conv3, self.bn3 = conv_norm(width, 4 * width, 1)
        self.downsample = shortcut(n_in, 4 * width, stride)

    def forward(self, x):
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y)).relu()
        y = self.bn3(self.conv3(y))
        return (y + self.downsample(x)).relu()


def shortcut(n_in, n_out, stride):
    """A strided 1x1 convolution with its norm (`downsample.0`, `.1`) where the shape changes."""
    if stride == 1 and n_in == n_out:
        return nn.Identity()
    return nn.Sequential(*conv_norm(n_in, n_out, 1, stride))


class ResNet(nn.Module):
    """torchvision's names: conv1, bn1, layer1..4, fc.

    `stem` is imagenet (7x7 stride 2, max pool) or cifar (3x3 stride 1).
    """

    def __init__(self, block, depths, stem="imagenet", width=1.0, n_classes=1000):
        super().__init__()
        widths = [int(w * width) for w in (64, 128, 256, 512)]
        if stem == "imagenet":
            self.conv1, self.bn1 = conv_norm(3, widths[0], 7, 2)
            self.maxpool = nn.MaxPool2d(3, 2, 1)
        else:
            self.conv1, self.bn1 = conv_norm(3, widths[0], 3)
            self.maxpool = nn.Identity()
        n_in = widths[0]
        for stage, (n_out, depth) in enumerate(zip(widths, depths)):
            blocks = []
            for i in range(depth):
                blocks.append(block(n_in, n_out, 2 if stage > 0 and i == 0 else 1))
                n_in = n_out * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(n_in, n_classes)

    def forward(self, x):
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


class InvertedResidual(nn.Module):
    """Expand (1x1, ReLU6), filter each channel (3x3, ReLU6), project (1x1, linear); a sum where the shape stays."""

    def __init__(self, n_in, n_out, stride, expand):
        super().__init__()
        hidden = n_in * expand
        layers = [] if expand == 1 else [conv_norm_relu6(n_in, hidden, 1)]
        layers.append(conv_norm_relu6(hidden, hidden, 3, stride, groups=hidden))
        layers.extend(conv_norm(hidden, n_out, 1))
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and n_in == n_out

    def forward(self, x):
        return x + self.conv(x) if self.residual else self.conv(x)


def conv_norm_relu6(n_in, n_out, kernel, stride=1, groups=1):
    return nn.Sequential(*conv_norm(n_in, n_out, kernel, stride, groups), nn.ReLU6())


class MobileNetV2(nn.Module):
    """torchvision's names: features.0..18, classifier.1; width 1."""

    # expansion, channels, blocks, stride of the first block
    STAGES = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]

    def __init__(self, n_classes=1000):
        super().__init__()
        features, n_in = [conv_norm_relu6(3, 32, 3, 2)], 32
        for expand, n_out, n_blocks, stride in self.STAGES:
            for i in range(n_blocks):
                features.append(InvertedResidual(n_in, n_out, stride if i == 0 else 1, expand))
                n_in = n_out
        features.append(conv_norm_relu6(n_in, 1280, 1))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, n_classes))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class Attention(nn.Module):
    """Multi-head self-attention; `qkv` packs q, k, v in this order, each by heads."""

    def __init__(self, width, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):  # [n, t, width]
        n, t, width = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.n_heads, width // self.n_heads).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(2, 3) * (width // self.n_heads) ** -0.5
        return self.proj((scores.softmax(3) @ v).transpose(1, 2).reshape(n, t, width))


class Mlp(nn.Module):
    """Two linear layers around the exact GELU."""

    def __init__(self, width, hidden):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x):
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm encoder block."""

    def __init__(self, width, n_heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, n_heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """Patches to tokens, row by row: [n, 3, h, w] to [n, h w / patch^2, width]."""

    def __init__(self, patch, width):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """timm's names (DeiT without distillation): the class token goes first, layer norm eps is 1e-6."""

    def __init__(self, size, patch, width, depth, n_heads, n_classes):
        super().__init__()
        self.patch_embed = PatchEmbed(patch, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, (size // patch) ** 2 + 1, width))
        self.blocks = nn.Sequential(*[Block(width, n_heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, n_classes)

    def forward(self, x):
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), 1, -1), x], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


# name: (network, images, pixels per side, what is not in the names and shapes)
FAMILIES = {
    "resnet18": (lambda: ResNet(BasicBlock, (2, 2, 2, 2)), 2, 64, {"stem": "imagenet", "norm_eps": 1e-5}),
    "resnet50": (lambda: ResNet(Bottleneck, (3, 4, 6, 3)), 2, 64, {"stem": "imagenet", "norm_eps": 1e-5}),
    "resnet18_cifar_quarter": (
        lambda: ResNet(BasicBlock, (2, 2, 2, 2), "cifar", 0.25, 10),
        2,
        32,
        {"stem": "cifar", "width": 0.25, "norm_eps": 1e-5},
    ),
    "mobilenet_v2": (MobileNetV2, 2, 64, {"norm_eps": 1e-5}),
    "deit_tiny_patch16_224": (
        lambda: VisionTransformer(224, 16, 192, 12, 3, 1000),
        1,
        224,
        {"patch": 16, "heads": 3, "norm_eps": 1e-6, "norm": "pre", "activation": "gelu"},
    ),
    "vit_small32": (
        lambda: VisionTransformer(32, 4, 96, 6, 3, 10),
        2,
        32,
        {"patch": 4, "heads": 3, "norm_eps": 1e-6, "norm": "pre", "activation": "gelu"},
    ),
}


def fill(model):
    """Sets every float tensor of `model` by the formula; returns [(name, shape)] in the order of the names."""
    state = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    table = []
    for t, (name, tensor) in enumerate(sorted(state.items())):
        shape = tuple(tensor.shape)
        tensor.copy_(formula.weight(t, name, shape))
        table.append((name, list(shape)))
    return table


def digest(table):
    """SHA-256 over the lines `name d0 d1 ..`, each ended by a line feed."""
    lines = "".join(f"{name} {' '.join(map(str, shape))}\n" for name, shape in table)
    return hashlib.sha256(lines.encode()).hexdigest()


def as_text(described):
    """JSON with one tensor per line, for a reader and for a diff."""
    parts = []
    for family, entry in described.items():
        tensors = ",\n".join(f"      {json.dumps(name)}: {shape}" for name, shape in entry["tensors"])
        head = "".join(f"    {json.dumps(k)}: {json.dumps(v)},\n" for k, v in entry.items() if k != "tensors")
        parts.append(f'  {json.dumps(family)}: {{\n{head}    "tensors": {{\n{tensors}\n    }}\n  }}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def make(out):
    # The first numbers of the formula itself, so that a mistake there is not sought in a network.
    tensors = {"formula.hashes": np.stack([formula.hashes(t, 8) for t in (0, 1, 2, formula.IMAGE_TENSOR)])}
    described = {}
    for family, (build, n_images, size, fixed) in FAMILIES.items():
        model = build().double().eval()
        table = fill(model)
        x = formula.images(n_images, size, size)
        logits = model(x)
        if not torch.isfinite(logits).all():
            raise SystemExit(f"{family}: logits are not finite")
        tensors[f"{family}.logits"] = logits.float().numpy()
        n_parameters = sum(p.numel() for p in model.parameters())
        entry = {"images": n_images, "size": size, "parameters": n_parameters, **fixed, "digest": digest(table)}
        described[family] = {**entry, "tensors": table}
        spread = logits.std(1).mean().item()
        between = (logits[0] - logits[-1]).std().item()
        print(f"{family}: {n_parameters} parameters, logits std {spread:.3f}, between images {between:.3f}")
    metadata = {name: {k: v for k, v in entry.items() if k != "tensors"} for name, entry in described.items()}
    container.save(out / "families.safetensors", tensors, metadata)
    (out / "families.json").write_text(as_text(described))
