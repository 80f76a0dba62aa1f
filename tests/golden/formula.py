"""Numbers that both this script and the Rust tests compute, so that no weights need to be stored.

u(t, i) in [0, 1) is element i (row-major) of tensor t:

    mix(x):  x ^= x >> 16;  x *= 0x7feb352d;  x ^= x >> 15;  x *= 0x846ca68b;  x ^= x >> 16   (u32, wrapping)
    u(t, i) = mix(i + mix(t)) / 2^32                                                          (f64, exact)

A hash, and not a sine of i: sin(a i + b) makes every weight matrix one of rank 2, so that the logits of a whole network
would hang on two numbers per image and many wrong layouts would pass.

Weights: t counts the network's float tensors from 0 in the order of their names (bytewise; `num_batches_tracked` is
not among them). With s = 2 u(t, i) - 1, evaluated in f64 and then rounded to f32:

| tensor                                       | value                                                     |
| -------------------------------------------- | --------------------------------------------------------- |
| 4 axes (conv, patch projection)              | s sqrt(6 / fan_in), fan_in = product of the last 3 axes   |
| 2 axes (linear)                              | s sqrt(3 / fan_in), fan_in = last axis                    |
| 3 axes (`cls_token`, `pos_embed`)            | s / 2                                                     |
| 1 axis, name ends in `running_var`           | 1 + u / 2                                                 |
| 1 axis, name ends in `running_mean`          | s / 10                                                    |
| 1 axis, name ends in `weight` (a norm gain)  | 1 + s / 10                                                |
| 1 axis, name ends in `bias`                  | s / 10                                                    |

Images [n, 3, h, w]: t = 65536, v = s + 1.5 sin(0.05 (n + 1) (y + 1) + 0.11 (n + 1) (x + 1) + 2 c), n the image, c the
channel, y the row and x the column, all from 0: noise reaches every weight, the waves make the images differ.
"""

import math

import numpy as np
import torch

IMAGE_TENSOR = 65536


def mix(x):
    """The integer hash on an array of u32."""
    x = x.astype(np.uint32)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    return x


def hashes(t, n):
    """mix(i + mix(t)) for i in 0..n, [n] u32."""
    return mix(np.arange(n, dtype=np.uint32) + mix(np.array([t])))


def uniform(t, shape):
    """u(t, i) in the given shape, f64."""
    return hashes(t, math.prod(shape)).astype(np.float64).reshape(shape) / 2.0**32


def signed(t, shape):
    """s = 2 u - 1 in the given shape, f64."""
    return 2.0 * uniform(t, shape) - 1.0


def weight(t, name, shape):
    """Tensor t of a network, f64 values that are exact in f32."""
    s = signed(t, shape)
    if len(shape) == 4:
        value = s * math.sqrt(6.0 / math.prod(shape[1:]))
    elif len(shape) == 2:
        value = s * math.sqrt(3.0 / shape[1])
    elif len(shape) == 3:
        value = s / 2.0
    elif name.endswith("running_var"):
        value = 1.0 + (s + 1.0) / 4.0
    elif name.endswith("running_mean") or name.endswith("bias"):
        value = s / 10.0
    elif name.endswith("weight"):
        value = 1.0 + s / 10.0
    else:
        raise ValueError(f"no rule for {name} {shape}")
    return torch.from_numpy(value.astype(np.float32).astype(np.float64))


def images(n, height, width):
    """[n, 3, height, width], f64 values that are exact in f32."""
    shape = (n, 3, height, width)
    image, channel, y, x = np.indices(shape).astype(np.float64)
    wave = np.sin(0.05 * (image + 1) * (y + 1) + 0.11 * (image + 1) * (x + 1) + 2.0 * channel)
    value = signed(IMAGE_TENSOR, shape) + 1.5 * wave
    return torch.from_numpy(value.astype(np.float32).astype(np.float64))
