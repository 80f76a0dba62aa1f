"""The six published networks: f32 logits of the first test images, and the top-1 over all of them as a check."""

import gzip
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import container

N_LOGITS = 200  # images whose logits are kept
BATCH = 500


def cifar_test(data):
    """[10000, 3, 32, 32] u8 and [10000] labels of the standard binary layout."""
    records = np.fromfile(data / "cifar-10-batches-bin" / "test_batch.bin", np.uint8).reshape(-1, 3073)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]


def mnist_test(data):
    """[10000, 1, 28, 28] u8 and [10000] labels from the IDX files (headers of 16 and 8 bytes)."""
    images = gzip.open(data / "mnist" / "t10k-images-idx3-ubyte.gz").read()
    labels = gzip.open(data / "mnist" / "t10k-labels-idx1-ubyte.gz").read()
    images = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 1, 28, 28)
    return images.copy(), np.frombuffer(labels, np.uint8, offset=8)


def normalize(images, mean, std):
    """u8 to f32: (x / 255 - mean) / std by channel."""
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (mean, std))
    return (torch.from_numpy(images).float() / 255.0 - mean) / std


def batch_norm(w, name, x):
    stats = w[f"{name}.running_mean"], w[f"{name}.running_var"]
    return F.batch_norm(x, *stats, w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-5)


def layer_norm(w, name, x):
    gain = w[f"{name}.weight"]
    return F.layer_norm(x, gain.shape, gain, w[f"{name}.bias"], 1e-5)


def linear(w, name, x):
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def resnet(w, x):
    """CIFAR ResNet; where the shape changes the shortcut takes every second pixel and pads channels on both sides."""
    x = batch_norm(w, "bn1", F.conv2d(x, w["conv1.weight"], padding=1)).relu()
    for stage in (1, 2, 3):
        block = 0
        while f"layer{stage}.{block}.conv1.weight" in w:
            at = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = F.conv2d(x, w[f"{at}.conv1.weight"], stride=stride, padding=1)
            y = batch_norm(w, f"{at}.bn1", y).relu()
            y = batch_norm(w, f"{at}.bn2", F.conv2d(y, w[f"{at}.conv2.weight"], padding=1))
            if stride == 2:
                pad = y.shape[1] // 4
                x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, pad, pad))
            x = (x + y).relu()
            block += 1
    return linear(w, "linear", x.mean((2, 3)))


def attention(w, at, x, n_heads):
    """Self-attention with packed q, k, v: [n, t, width] to the same shape."""
    n, t, width = x.shape
    packed = F.linear(x, w[f"{at}.in_proj_weight"], w[f"{at}.in_proj_bias"])
    q, k, v = packed.view(n, t, 3, n_heads, width // n_heads).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(2, 3) / (width // n_heads) ** 0.5
    mixed = (scores.softmax(3) @ v).transpose(1, 2).reshape(n, t, width)
    return linear(w, f"{at}.out_proj", mixed)


def tokens(w, proj, x):
    """Class token, then the 4x4 patches row by row, plus positions: [n, 3, 32, 32] to [n, 65, width]."""
    x = F.conv2d(x, w[f"{proj}.weight"], w[f"{proj}.bias"], stride=4).flatten(2).transpose(1, 2)
    first = w["cls_token"].expand(len(x), 1, -1)
    return torch.cat([first, x], 1) + w["pos_embed"]


def vit_small(w, x):
    """Post-norm encoder with ReLU, 6 blocks, 8 heads."""
    x = tokens(w, "patch_embed.proj", x)
    for block in range(6):
        at = f"transformer.layers.{block}"
        x = layer_norm(w, f"{at}.norm1", x + attention(w, f"{at}.self_attn", x, 8))
        y = linear(w, f"{at}.linear2", linear(w, f"{at}.linear1", x).relu())
        x = layer_norm(w, f"{at}.norm2", x + y)
    return linear(w, "mlp_head.1", layer_norm(w, "mlp_head.0", x[:, 0]))


def vit_tiny(w, x):
    """Pre-norm encoder with the exact GELU, 4 blocks, 4 heads."""
    x = tokens(w, "patch_embedding.embed", x)
    for block in range(4):
        at = f"transformer_layers.{block}"
        x = x + attention(w, f"{at}.attention", layer_norm(w, f"{at}.norm1", x), 4)
        y = F.gelu(linear(w, f"{at}.mlp.0", layer_norm(w, f"{at}.norm2", x)))
        x = x + linear(w, f"{at}.mlp.2", y)
    return linear(w, "out_head.1", layer_norm(w, "out_head.0", x[:, 0]))


def mnist_cnn(w, x):
    """Three valid convolutions, batch norm, two linear layers, batch norm on the logits."""
    for conv in ("conv1", "conv2", "conv3"):
        x = F.conv2d(x, w[f"{conv}.weight"], w[f"{conv}.bias"]).relu()
    x = batch_norm(w, "norm1", x).flatten(1)
    return batch_norm(w, "norm2", linear(w, "fc2", linear(w, "fc1", x).relu()))


IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CIFAR = [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]
UNIT = [0.0] * 3, [1.0] * 3
MNIST = [0.1307], [0.3081]

# name: (forward, test set, mean and std, right answers of 10,000 that data/README.md states as checked)
NETWORKS = {
    "resnet20_cifar10": (resnet, cifar_test, IMAGENET, 9173),
    "resnet32_cifar10": (resnet, cifar_test, IMAGENET, 9263),
    "resnet56_cifar10": (resnet, cifar_test, IMAGENET, 9339),
    "vit_small_cifar10": (vit_small, cifar_test, CIFAR, 7373),
    "vit_tiny_cifar10": (vit_tiny, cifar_test, UNIT, 5698),
    "mnist_cnn": (mnist_cnn, mnist_test, MNIST, 9917),
}


def make(out, data, n_images):
    tensors, described, wrong = {}, {}, []
    for name, (forward, read, (mean, std), stated) in NETWORKS.items():
        start = time.monotonic()
        images, labels = read(data)
        n = min(max(n_images, N_LOGITS), len(images))
        weights = load_file(data / "models" / f"{name}.safetensors")
        logits = []
        for at in range(0, n, BATCH):
            logits.append(forward(weights, normalize(images[at : min(at + BATCH, n)], mean, std)).numpy())
        logits = np.concatenate(logits)
        right = int((logits.argmax(1) == labels[:n]).sum())
        tensors[f"{name}.logits"] = logits[:N_LOGITS]
        tensors[f"{name}.labels"] = labels[:N_LOGITS]
        right_kept = int((logits[:N_LOGITS].argmax(1) == labels[:N_LOGITS]).sum())
        described[name] = {"images": N_LOGITS, "right": right_kept, "right_of_10000": stated, "mean": mean, "std": std}
        verdict = "unchecked"
        if n == 10_000:
            verdict = "as stated" if right == stated else f"NOT the stated {stated}"
            wrong += [] if right == stated else [name]
        print(f"{name}: {right} of {n} right ({verdict}), {time.monotonic() - start:.0f} s", flush=True)
    if wrong:
        sys.exit(f"top-1 differs from the stated figure: {', '.join(wrong)}; nothing written")
    container.save(out / "logits.safetensors", tensors, described)
