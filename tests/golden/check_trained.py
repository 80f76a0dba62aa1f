"""Whether PyTorch loads what `classify train` wrote, and finds the same top-1: check_trained.py RUN CIFAR_FOLDER

RUN holds weights.safetensors and result.json of a CIFAR ResNet of any width and depth, trained with `--normalize imagenet`
(the default). Needs torch, numpy and safetensors.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn


class Block(nn.Module):
    def __init__(self, n_in, n_out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.stride, self.widen = stride, (n_out - n_in) // 2

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.widen, self.widen))
        return F.relu(y + shortcut)


class ResNet(nn.Module):
    def __init__(self, width, blocks, classes):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        widths = [width, width, 2 * width, 4 * width]
        for stage in (1, 2, 3):
            n_in, n_out = widths[stage - 1], widths[stage]
            first = Block(n_in, n_out, 1 if stage == 1 else 2)
            setattr(self, f"layer{stage}", nn.Sequential(first, *(Block(n_out, n_out, 1) for _ in range(blocks - 1))))
        self.linear = nn.Linear(widths[3], classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def main():
    run, data = Path(sys.argv[1]), Path(sys.argv[2])
    weights = load_file(run / "weights.safetensors")
    blocks = len({name.split(".")[1] for name in weights if name.startswith("layer1.")})
    net = ResNet(len(weights["conv1.weight"]), blocks, len(weights["linear.bias"]))
    missing, unexpected = net.load_state_dict(weights, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    assert not missing and not unexpected, (missing, unexpected)
    net.eval()
    rows = np.fromfile(data / "test_batch.bin", np.uint8).reshape(-1, 3073)
    labels = torch.tensor(rows[:, 0].astype(np.int64))
    x = torch.tensor(rows[:, 1:].reshape(-1, 3, 32, 32).astype(np.float32) / 255)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (x - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        right = sum((net(x[i : i + 500]).argmax(1) == labels[i : i + 500]).sum().item() for i in range(0, len(x), 500))
    here, there = 100 * right / len(x), json.loads((run / "result.json").read_text())["top1"]
    print(f"top-1 {here:.2f} % in PyTorch, {there:.2f} % here")
    sys.exit(abs(here - there) > 0.03)


if __name__ == "__main__":
    main()
