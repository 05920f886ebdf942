"""AdamW with no-decay groups, the learning rate as a function of the step, and the optimizer's
state by name.

The state is kept under parameter names ("exp_avg/encoder..."), in no world size's layout, so that
it is safetensors and can be read back on any number of ranks. With 8-bit moments (bitsandbytes) it
is their bytes and the largest value of each block ("state1/...", "absmax1/...").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from qa_dist.recipe import Train
from qa_dist.records import InputError

MOMENTS = ("exp_avg", "exp_avg_sq")
_NOT_SAVED = ("step", "qmap1", "qmap2")  # counted by the run; constants of bitsandbytes


def build_optimizer(model: nn.Module, train: Train) -> torch.optim.Optimizer:
    """Return AdamW; biases and normalisation weights (fewer than two dimensions) aren't decayed.

    With 8-bit moments it is bitsandbytes'. On a CPU there is nothing to page out to: paged means
    8-bit alone there. Raises InputError where bitsandbytes isn't installed.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": train.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]  # of adapters none are biases
    if train.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, eps=train.adam_epsilon, fused=True)
    try:
        from bitsandbytes import optim
    except ImportError as error:
        raise InputError(
            f"train.optimizer={train.optimizer}: needs bitsandbytes, which isn't installed "
            f"({error}); pip install 'qa-dist[qlora]', or use adamw"
        ) from error
    is_paged = train.optimizer == "paged_adamw_8bit" and trained[0].device.type == "cuda"
    make: Any = optim.PagedAdamW8bit if is_paged else optim.AdamW8bit
    optimizer: torch.optim.Optimizer = make(groups, lr=0.0, eps=train.adam_epsilon)
    return optimizer


def learning_rate(step: int, num_steps: int, train: Train) -> float:
    """Return the rate of step `step` (from 0): linear warm-up, then linear fall to 0 after the last
    step."""
    warmup = train.warmup_steps or round(train.warmup_fraction * num_steps)
    if step < warmup:
        return train.learning_rate * (step + 1) / warmup
    return train.learning_rate * (num_steps - step) / max(1, num_steps - warmup)


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, model: nn.Module
) -> dict[str, torch.Tensor]:
    """Return both moments of each parameter by name; empty before the first step."""
    return {
        f"{key}/{name}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if key not in _NOT_SAVED and isinstance(value, torch.Tensor)
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    tensors: Mapping[str, torch.Tensor],
    num_updates: Callable[[str], int],
    place: Callable[[torch.Tensor, nn.Parameter], torch.Tensor] = lambda whole, p: whole.to(
        p.device
    ),
) -> None:
    """Put back what `optimizer_tensors` returned, after `num_updates(name)` updates of each.

    `place` gives what this rank keeps of a moment: by default the whole, on the parameter's device.
    """
    saved: dict[str, dict[str, torch.Tensor]] = {}
    for full_name, tensor in tensors.items():
        key, _, name = full_name.partition("/")
        saved.setdefault(name, {})[key] = tensor
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for g, group in enumerate(optimizer.param_groups):
        for p, parameter in enumerate(group["params"]):
            # Absent: a parameter that never had a gradient (of a layer that this head doesn't use).
            name = names[id(parameter)]
            count = num_updates(name)
            found = saved.get(name) if count else None
            if found and isinstance(optimizer, torch.optim.AdamW):
                state: dict[str, Any] = {m: place(found[m], parameter) for m in MOMENTS}
                state["step"] = torch.tensor(float(count), device=parameter.device)
                optimizer.state[parameter] = state
            elif found:
                optimizer.init_state(group, parameter, g, p)  # type: ignore[attr-defined]
                state = optimizer.state[parameter]
                for key, tensor in found.items():
                    state[key].copy_(tensor)  # into paged memory, where it is paged
                state["step"] = count
