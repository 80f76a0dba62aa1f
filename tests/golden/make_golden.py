#!/usr/bin/env python3
"""Makes the golden vectors beside this file with plain PyTorch, from definitions written out here.

    python3 make_golden.py --data DIR [--only ops,optim,families,networks] [--images 10000]

DIR holds `models/`, `cifar-10-batches-bin/` and `mnist/` as data/README.md describes them; only `networks` reads it.
Needs torch, numpy and safetensors. Runs on the CPU in one thread; the 10,000 images of `networks` take a while.

| file                   | what                                                                     | made by          |
| ---------------------- | ------------------------------------------------------------------------ | ---------------- |
| `ops.safetensors`      | inputs, parameters and outputs of single ops, `<case>.<role>`            | `op_cases.py`    |
| `optim.safetensors`    | values of parameters after each step of an optimizer                     | `optim_cases.py` |
| `families.safetensors` | logits of networks whose weights and images follow `formula.py`          | `families.py`    |
| `families.json`        | tensor names and shapes of those networks, and what else fixes them      | `families.py`    |
| `logits.safetensors`   | logits of the published networks on 200 test images, `<network>.logits`  | `networks.py`    |

Every run writes the same bytes on the same machine. Another processor may sum `logits.safetensors` in another order,
which moves its f32 logits in the last places; the other files are computed in f64 and rounded once.
"""

import argparse
import pathlib

import torch

import families
import networks
import op_cases
import optim_cases

PARTS = ("ops", "optim", "families", "networks")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, help="folder with models/, cifar-10-batches-bin/ and mnist/")
    parser.add_argument("--only", default=",".join(PARTS), help="parts to make, of ops,optim,families,networks")
    parser.add_argument("--images", type=int, default=10_000, help="test images for the top-1 check (10000 = all)")
    args = parser.parse_args()
    parts = args.only.split(",")
    if set(parts) - set(PARTS):
        parser.error(f"--only takes {','.join(PARTS)}, not {args.only}")
    if "networks" in parts and args.data is None:
        parser.error("the networks need --data DIR")
    torch.set_num_threads(1)  # one order of summation
    torch.set_grad_enabled(False)
    out = pathlib.Path(__file__).resolve().parent
    if "ops" in parts:
        op_cases.make(out)
    if "optim" in parts:
        with torch.enable_grad():
            optim_cases.make(out)
    if "families" in parts:
        families.make(out)
    if "networks" in parts:
        networks.make(out, args.data, args.images)


if __name__ == "__main__":
    main()
