"""Optimizer steps by PyTorch's own optimizers, over three parameters of which the second does not decay.

Inputs come from `formula.py`, steps are computed in f64, values are rounded once. All cases share `shared.w`, the first
values, and `shared.d`, the gradients `[steps, elements]`; `<case>.out` holds the values after each step, the parameters
one behind the other.
"""

import torch

import container
import formula

SIZES = (5, 64, 67)
DECAYS = (True, False, True)
N_STEPS = 8
FIRST_TENSOR = (1 << 21) + (1 << 20)  # numbers that no other file takes


def values(number, *shape):
    """Uniform numbers in -1..1, f64 that are exact in f32."""
    u = torch.from_numpy(formula.uniform(FIRST_TENSOR + number, shape))
    return (2.0 * u - 1.0).float().double()


def run(w, d, make_optimizer, decay, max_norm):
    params = [p.clone().requires_grad_() for p in w.split(SIZES)]
    groups = [
        {"params": [p for p, decays in zip(params, DECAYS) if decays == kind], "weight_decay": decay if kind else 0.0}
        for kind in (True, False)
    ]
    optimizer = make_optimizer(groups)
    out = []
    for step in d:
        for p, grad in zip(params, step.split(SIZES)):
            p.grad = grad.clone()
        if max_norm:
            torch.nn.utils.clip_grad_norm_(params, max_norm)
        optimizer.step()
        out.append(torch.cat([p.detach() for p in params]).clone())
    return torch.stack(out)


def make(out):
    n = sum(SIZES)
    # From one step to the next the gradients shrink and grow, so that clipping acts on some of them.
    scales = torch.tensor([1.0, 0.5, 2.0, 0.25, 1.0, 4.0, 0.125, 1.0], dtype=torch.float64)
    w, d = values(0, n), values(1, N_STEPS, n) * scales[:, None]
    tensors, described = {"shared.w": w, "shared.d": d}, {}

    def case(name, op, decay=0.0, max_norm=0.0, **params):
        rule = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[op]
        tensors[f"{name}.out"] = run(w, d, lambda groups: rule(groups, **params), decay, max_norm)
        described[name] = {"op": op, "params": params | {"decay": decay, "max_norm": max_norm}}

    case("sgd", "sgd", lr=0.1)
    case("sgd_momentum", "sgd", lr=0.1, momentum=0.9, decay=0.01)
    case("sgd_nesterov", "sgd", lr=0.1, momentum=0.9, nesterov=True, decay=0.01)
    case("sgd_clipped", "sgd", lr=0.1, momentum=0.9, decay=0.01, max_norm=5.0)
    case("adam", "adam", lr=0.01, betas=(0.9, 0.999), eps=1e-8)
    case("adam_decay", "adam", lr=0.01, betas=(0.9, 0.999), eps=1e-8, decay=0.1)
    case("adamw", "adamw", lr=0.01, betas=(0.9, 0.999), eps=1e-8, decay=0.1)
    case("adamw_long", "adamw", lr=0.01, betas=(0.9, 0.95), eps=1e-3, decay=0.1)
    arrays = {name: tensor.float().numpy() for name, tensor in tensors.items()}
    described["shared"] = {"op": "none", "params": {"sizes": SIZES, "decays": DECAYS}}
    container.save(out / "optim.safetensors", arrays, described)
