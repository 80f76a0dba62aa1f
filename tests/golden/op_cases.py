"""Single ops whose semantics are easily taken wrong: padding, rounding of sizes, masks, epsilons.

Inputs come from `formula.py` (tensor numbers are given in order, so no case depends on another's size), outputs are
computed in f64 and rounded once. Layouts are PyTorch's: images [n, c, h, w], conv weights [out, in / groups, kh, kw].
The file's metadata holds for each case the op, its parameters and, where it helps, the trap.
"""

import math

import torch
import torch.nn.functional as F

import container
import formula


class Cases:
    """Collects tensors `<case>.<role>` and one description per case."""

    def __init__(self):
        self.tensors, self.described = {}, {}

    def add(self, name, op, params, tensors, note=None):
        if name in self.described:
            raise ValueError(f"case {name} is given twice")
        self.described[name] = {"op": op, "params": params} | ({"note": note} if note else {})
        for role, tensor in tensors.items():
            if tensor.dtype.is_floating_point and not torch.isfinite(tensor).all():
                raise ValueError(f"{name}.{role} is not finite")
            kept = tensor.float() if tensor.dtype.is_floating_point else tensor.int()
            self.tensors[f"{name}.{role}"] = kept.numpy()


_next_tensor = iter(range(1 << 20, 1 << 21))


def values(*shape, low=-1.0, high=1.0):
    """Uniform numbers of the formula, f64 that are exact in f32."""
    u = torch.from_numpy(formula.uniform(next(_next_tensor), shape))
    return (low + (high - low) * u).float().double()


def conv(cases):
    def case(name, x, w, bias=True, note=None, **params):
        b = values(w[0]) if bias else None
        x, w = values(*x), values(*w)
        out = F.conv2d(x, w, b, **params)
        tensors = {"x": x, "w": w, "out": out} | ({"b": b} if bias else {})
        cases.add(name, "conv2d", {"stride": 1, "padding": 0, "groups": 1} | params, tensors, note)

    case("conv_valid", (2, 3, 7, 6), (4, 3, 3, 3))
    case("conv_same", (2, 3, 7, 6), (4, 3, 3, 3), padding=1)
    case("conv_no_bias", (1, 3, 5, 5), (4, 3, 3, 3), bias=False, padding=1)
    case("conv_stride2", (2, 3, 7, 7), (4, 3, 3, 3), stride=2, padding=1)
    floor_note = "an even size: the last row and column of padding are never read"
    case("conv_stride2_even", (1, 3, 8, 8), (4, 3, 3, 3), note=floor_note, stride=2, padding=1)
    case("conv_patch", (1, 3, 8, 12), (5, 3, 4, 4), stride=4)
    case("conv_stem7", (1, 3, 16, 15), (4, 3, 7, 7), bias=False, stride=2, padding=3)
    case("conv_pointwise", (2, 5, 4, 3), (7, 5, 1, 1))
    case("conv_pointwise_stride2", (1, 4, 5, 6), (6, 4, 1, 1), stride=2)
    case("conv_wide_padding", (1, 2, 3, 3), (2, 2, 5, 5), padding=4, note="some windows see padding alone")
    case("conv_kernel_3x5", (1, 2, 6, 7), (3, 2, 3, 5), stride=(2, 1), padding=(1, 2), note="pairs are height, width")
    order_note = "output channel o reads input channels of group o / (out / groups)"
    case("conv_groups", (2, 6, 5, 4), (4, 3, 3, 3), note=order_note, padding=1, groups=2)
    case("conv_groups3_stride2", (1, 6, 7, 6), (9, 2, 3, 3), stride=2, padding=1, groups=3)
    case("conv_depthwise", (2, 5, 6, 6), (5, 1, 3, 3), padding=1, groups=5)
    case("conv_depthwise_stride2", (1, 8, 7, 8), (8, 1, 3, 3), bias=False, stride=2, padding=1, groups=8)
    case("conv_depthwise_multiplier", (1, 3, 5, 5), (6, 1, 3, 3), note=order_note, padding=1, groups=3)


def pool(cases):
    def case(name, op, x, note=None, **params):
        function = {"max_pool2d": F.max_pool2d, "avg_pool2d": F.avg_pool2d}[op]
        cases.add(name, op, params, {"x": x, "out": function(x, **params)}, note)

    case("max_pool_2x2", "max_pool2d", values(2, 3, 6, 4), kernel_size=2, stride=2, padding=0)
    floor_note = "odd size: the last row and column are dropped"
    case("max_pool_floor", "max_pool2d", values(1, 2, 7, 5), kernel_size=2, stride=2, padding=0, note=floor_note)
    pad_note = "all inputs are negative: padding must lose, so it is not 0"
    negative = values(1, 3, 7, 8, low=-3.0, high=-1.0)
    case("max_pool_padded", "max_pool2d", negative, kernel_size=3, stride=2, padding=1, note=pad_note)
    case("avg_pool_2x2", "avg_pool2d", values(2, 3, 6, 4), kernel_size=2, stride=2, padding=0)
    case("avg_pool_floor", "avg_pool2d", values(1, 2, 7, 5), kernel_size=2, stride=2, padding=0, note=floor_note)
    for counted in (True, False):
        name = f"avg_pool_{'counts' if counted else 'skips'}_padding"
        x = values(1, 3, 7, 8, low=0.5, high=2.0)
        case(name, "avg_pool2d", x, kernel_size=3, stride=2, padding=1, count_include_pad=counted)
    x = values(2, 4, 5, 3)
    cases.add("global_avg_pool", "mean", {"axes": [2, 3]}, {"x": x, "out": x.mean((2, 3))})


def resize(cases):
    sizes = {"up": ((5, 4), (9, 11)), "down": ((9, 11), (5, 4)), "mixed": ((4, 9), (7, 5))}
    sizes |= {"to_1x1": ((5, 4), (1, 1)), "from_1x1": ((1, 1), (3, 2)), "same": ((4, 5), (4, 5))}
    sizes |= {"x2": ((3, 4), (6, 8))}
    for aligned in (False, True):
        for kind, (size, to) in sizes.items():
            x = values(2, 2, *size)
            out = F.interpolate(x, to, mode="bilinear", align_corners=aligned, antialias=False)
            params = {"size": list(to), "align_corners": aligned}
            name = f"resize_{kind}_{'aligned' if aligned else 'half_pixel'}"
            cases.add(name, "resize_bilinear", params, {"x": x, "out": out})


def activation(cases):
    # A grid through 0 with both tails, then magnitudes at which naive formulas overflow or lose all digits.
    grid = torch.linspace(-6.0, 6.0, 49, dtype=torch.float64)
    far = torch.tensor([-100.0, -30.0, -12.0, -1e-4, 1e-4, 12.0, 30.0, 100.0], dtype=torch.float64)
    x = torch.cat([grid, far]).float().double()
    functions = {
        "gelu": (F.gelu, {"approximate": "none"}),
        "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), {"approximate": "tanh"}),
        "relu6": (F.relu6, {}),
        "silu": (F.silu, {}),
        "sigmoid": (torch.sigmoid, {}),
        "tanh": (torch.tanh, {}),
        "softplus": (lambda x: torch.logaddexp(x, torch.zeros_like(x)), {}),
        "hard_swish": (F.hardswish, {}),
        "hard_sigmoid": (F.hardsigmoid, {}),
        "leaky_relu": (lambda x: F.leaky_relu(x, 0.01), {"slope": 0.01}),
        "elu": (F.elu, {"alpha": 1.0}),
        "erf": (torch.erf, {}),
    }
    for name, (function, params) in functions.items():
        cases.add(name, name.removesuffix("_tanh"), params, {"x": x, "out": function(x)})
    halves = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5, -0.4, 0.6], dtype=torch.float64)
    cases.add("round_half_to_even", "round", {}, {"x": halves, "out": torch.round(halves)})


def softmax(cases):
    x = values(4, 7, low=-8.0, high=8.0)
    cases.add("softmax_last_axis", "softmax", {"axis": 1}, {"x": x, "out": x.softmax(1)})
    wide = values(3, 5, low=-1.0, high=1.0) + torch.tensor([[1000.0], [-1000.0], [0.0]], dtype=torch.float64)
    wide = wide.float().double()
    cases.add("log_softmax_large", "log_softmax", {"axis": 1}, {"x": wide, "out": wide.log_softmax(1)})

    def case(name, x, labels, smoothing, note=None):
        labels = torch.tensor(labels)
        tensors = {"x": x, "labels": labels}
        tensors["out"] = F.cross_entropy(x, labels, label_smoothing=smoothing, reduction="none")
        tensors["mean"] = F.cross_entropy(x, labels, label_smoothing=smoothing)
        cases.add(name, "cross_entropy", {"label_smoothing": smoothing}, tensors, note)

    case("cross_entropy", values(5, 7, low=-4.0, high=4.0), [0, 6, 3, 3, 1], 0.0)
    note = "target (1 - s) on the label plus s / classes on every class, the label included"
    case("cross_entropy_smoothed", values(5, 7, low=-4.0, high=4.0), [0, 6, 3, 3, 1], 0.1, note)
    case("cross_entropy_large", values(4, 10, low=-300.0, high=300.0), [9, 0, 4, 5], 0.1)


def norm(cases):
    def case(name, op, x, gain, bias, params, out, note=None):
        tensors = {"x": x, "out": out} | ({} if gain is None else {"w": gain}) | ({} if bias is None else {"b": bias})
        cases.add(name, op, params, tensors, note)

    x, gain, bias = values(3, 5, 12, low=-2.0, high=3.0), values(12, low=0.5, high=1.5), values(12)
    out = F.layer_norm(x, (12,), gain, bias, 1e-5)
    case("layer_norm", "layer_norm", x, gain, bias, {"eps": 1e-5}, out, "the variance divides by n, not n - 1")
    case("layer_norm_bare", "layer_norm", x, None, None, {"eps": 1e-5}, F.layer_norm(x, (12,), eps=1e-5))
    # Variance about eps: a wrong eps, or one outside the root, is off by far more than rounding.
    small, gain, bias = values(4, 9, low=-2e-3, high=2e-3), values(9, low=0.5, high=1.5), values(9)
    for eps in (1e-5, 1e-6):
        out = F.layer_norm(small, (9,), gain, bias, eps)
        case(f"layer_norm_small_eps{eps:.0e}", "layer_norm", small, gain, bias, {"eps": eps}, out)
    out = F.rms_norm(small, (9,), gain, 1e-5)
    case("rms_norm_small", "rms_norm", small, gain, None, {"eps": 1e-5}, out, "eps is added to the mean square")
    x, gain = values(3, 10, low=-2.0, high=3.0), values(10, low=0.5, high=1.5)
    case("rms_norm", "rms_norm", x, gain, None, {"eps": 1e-5}, F.rms_norm(x, (10,), gain, 1e-5))
    shifted = (values(3, 16) + 100.0).float().double()
    note = "mean 100, deviation 0.6: E[x^2] - E[x]^2 in f32 is off in the third digit"
    out = F.layer_norm(shifted, (16,), eps=1e-5)
    case("layer_norm_far_from_0", "layer_norm", shifted, None, None, {"eps": 1e-5}, out, note)
    x, gain, bias = values(2, 6, 3, 4, low=-2.0, high=3.0), values(6, low=0.5, high=1.5), values(6)
    for groups in (1, 2, 3, 6):
        out = F.group_norm(x, groups, gain, bias, 1e-5)
        case(f"group_norm_{groups}", "group_norm", x, gain, bias, {"groups": groups, "eps": 1e-5}, out)
    mean, var = values(6), values(6, low=1e-5, high=2.0)
    out = F.batch_norm(x, mean, var, gain, bias, False, 0.0, 1e-5)
    tensors = {"x": x, "w": gain, "b": bias, "mean": mean, "var": var, "out": out}
    cases.add("batch_norm_eval", "batch_norm", {"eps": 1e-5}, tensors)
    x = values(4, 6)
    for unbiased in (False, True):
        params = {"axis": 1, "correction": int(unbiased)}
        name = f"var_{'unbiased' if unbiased else 'biased'}"
        cases.add(name, "var", params, {"x": x, "out": x.var(1, correction=params["correction"])})


def attention(cases):
    def case(name, n_queries, n_keys, causal=False, scale=None, note=None):
        q = values(2, 3, n_queries, 8, low=-2.0, high=2.0)
        k = values(2, 3, n_keys, 8, low=-2.0, high=2.0)
        v = values(2, 3, n_keys, 8)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)
        params = {"causal": causal, "scale": scale or 1.0 / math.sqrt(8)}
        cases.add(name, "attention", params, {"q": q, "k": k, "v": v, "out": out}, note)

    case("attention", 5, 5, note="q, k, v and out are [batch, heads, tokens, width of a head]")
    case("attention_causal", 5, 5, causal=True, note="token i sees tokens 0..=i")
    case("attention_scaled", 4, 4, scale=0.5)
    case("attention_cross", 3, 7)
    case("attention_one_token", 1, 1, causal=True)
    note = "PyTorch counts queries and keys from the same start: query i sees keys 0..=i, the last 4 keys are unseen"
    case("attention_causal_more_keys", 3, 7, causal=True, note=note)


def make(out):
    cases = Cases()
    for family in (conv, pool, resize, activation, softmax, norm, attention):
        family(cases)
    container.save(out / "ops.safetensors", cases.tensors, cases.described)
