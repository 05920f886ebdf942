"""How weights, gradients and moments lie on the ranks: whole on each (DDP), or in shards (FSDP,
DeepSpeed's ZeRO 1 to 3).

All of them walk the same steps over the same micro-batches. What they save is whole and by name, in
no world size's layout: a run goes on with another number of ranks, or with another engine. In: an
Engine and a model with its weights loaded. Must not know what is trained, nor how to save it.
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn

from qa_dist.recipe import Train
from qa_dist.training.engine import Engine
from qa_dist.training.optim import (
    MOMENTS,
    build_optimizer,
    load_optimizer_tensors,
    optimizer_tensors,
)

State = dict[str, torch.Tensor]


class Replicated:
    """Each rank has all of it; gradients are averaged once per step (DDP). Alone: nothing to do."""

    is_sharded = False
    """Whether a forward or a backward is a collective, so that all ranks must do equally many."""

    def __init__(self, engine: Engine, model: nn.Module, train: Train) -> None:
        """Take over `model`, whose weights are the same on all ranks."""
        self.engine, self.train = engine, train
        self.module = model
        """The model itself: names of parameters are its own."""
        self.model = model
        """What is to be called."""
        owners: Any = getattr(model, "owners", dict)
        self._owners: Mapping[str, int] = owners()
        self.bad_steps = torch.zeros((), device=engine.device)
        """How many steps nothing was updated in, since loss or gradient weren't finite."""
        self.optimizer: torch.optim.Optimizer = self._share_out()

    def _share_out(self) -> Any:
        """Lay the model out, so that `model` can be called; return its optimizer."""
        optimizer = build_optimizer(self.module, self.train)
        if self.engine.world_size > 1:
            self.model = self.engine.wrap_replicated(self.module)
        return optimizer

    @property
    def knows_at_once(self) -> bool:
        """Whether `bad_steps` is looked at in each step; reading it would hold up a GPU."""
        can_skip = isinstance(self.optimizer, torch.optim.AdamW)  # bitsandbytes' can't
        return self.is_sharded or self.engine.device.type == "cpu" or not can_skip

    def even_out(self, micro_batches: Sequence[Any]) -> list[Any]:
        """Return a step's micro-batches, with empty ones behind where ranks must have equally
        many."""
        missing = -len(micro_batches) % self.engine.world_size if self.is_sharded else 0
        return [*micro_batches, *[()] * missing]

    def backward(self, compute_loss: Callable[[], torch.Tensor], is_last: bool) -> torch.Tensor:
        """Add the gradients of a micro-batch's loss, which is divided by the step's global count
        already; return the loss: (). Averaging over ranks divides once more, hence the factor."""
        model: Any = self.model
        with nullcontext() if is_last or model is self.module else model.no_sync():
            loss = compute_loss()
            torch.autograd.backward(loss * self.engine.world_size)
        return loss.detach()

    def update(self, rate: float, loss: torch.Tensor) -> torch.Tensor:
        """Clip the gradients and do one update; return their norm before clipping: ().

        From the first step on whose loss or gradient isn't finite, nothing is updated any more.
        """
        grad_norm = self._clip()
        self.bad_steps += ~(grad_norm.isfinite() & loss.isfinite()) | (self.bad_steps > 0)
        if not self.knows_at_once:
            self.optimizer.found_inf = (self.bad_steps > 0).float()  # type: ignore[attr-defined]
        elif self.bad_steps.item():
            return grad_norm
        self._set_rate(rate)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return grad_norm

    def owner(self, name: str) -> int | None:
        """Return the source that a parameter alone serves; None: all do."""
        return self._owners.get(name)

    def leave_out(self, source: int) -> None:
        """Forget the gradients, of zeros, of what serves other sources alone: no update for it."""
        for name, parameter in self.module.named_parameters():
            if self._owners.get(name, source) != source:
                parameter.grad = None

    def shared_gradients(self) -> list[torch.Tensor]:
        """Return copies of the gradients of what serves all sources."""
        return [
            parameter.grad.detach().clone()
            for name, parameter in self.module.named_parameters()
            if parameter.grad is not None and name not in self._owners
        ]

    def forget_gradients(self) -> None:
        """End a backward that counts for nothing."""
        self.optimizer.zero_grad(set_to_none=True)

    def weights(self) -> State:
        """Return the model's state, whole and by name, on rank 0; call it on all ranks."""
        return self.module.state_dict() if self.engine.rank == 0 else {}

    def moments(self) -> State:
        """Return the optimizer's state, whole and by name, on rank 0; call it on all ranks."""
        return optimizer_tensors(self.optimizer, self.module) if self.engine.rank == 0 else {}

    def load_moments(
        self, tensors: Mapping[str, torch.Tensor], num_updates: Callable[[str], int]
    ) -> None:
        """Put back what `moments` returned, after `num_updates(name)` updates of each parameter."""
        load_optimizer_tensors(self.optimizer, self.module, tensors, num_updates)

    @contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        """Within it no gradients are kept, and there is no dropout; give what is to be called."""
        self.module.eval()
        with torch.no_grad():
            yield self.module
        self.module.train()

    def _clip(self) -> torch.Tensor:
        limit = self.train.clip_norm or math.inf
        return nn.utils.clip_grad_norm_(self.module.parameters(), limit)

    def _set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate


class FullySharded(Replicated):
    """Each rank has a share of every tensor; a block's weights are gathered when it computes
    (torch's FSDP2)."""

    is_sharded = True

    def _share_out(self) -> Any:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(self.engine.device.type, (self.engine.world_size,))
        # Heads stay with the root: torch gathers a block where its forward is called, and a head
        # is called by its loss.
        for block in _blocks(getattr(self.module, "encoder", self.module)):
            fully_shard(block, mesh=mesh)
        fully_shard(self.module, mesh=mesh)
        return build_optimizer(self.module, self.train)

    def backward(self, compute_loss: Callable[[], torch.Tensor], is_last: bool) -> torch.Tensor:
        """As DDP's; gradients are exchanged for each micro-batch, so that none lies whole
        anywhere."""
        loss = compute_loss()
        torch.autograd.backward(loss * self.engine.world_size)
        return loss.detach()

    def weights(self) -> State:
        return self._whole(self.module.state_dict())

    def shared_gradients(self) -> list[torch.Tensor]:
        shards: list[Any] = super().shared_gradients()
        return [shard.full_tensor() for shard in shards]

    def moments(self) -> State:
        return self._whole(optimizer_tensors(self.optimizer, self.module))

    def load_moments(
        self, tensors: Mapping[str, torch.Tensor], num_updates: Callable[[str], int]
    ) -> None:
        from torch.distributed.tensor import distribute_tensor

        def place(whole: torch.Tensor, parameter: Any) -> torch.Tensor:
            mesh, placements = parameter.device_mesh, parameter.placements
            on_device = whole.to(self.engine.device)
            return distribute_tensor(on_device, mesh, placements, src_data_rank=None)

        load_optimizer_tensors(self.optimizer, self.module, tensors, num_updates, place)

    @contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        with super().evaluating() as model:
            yield model
        self.module.reshard()  # type: ignore[operator]  # the root keeps what it has gathered

    def _clip(self) -> torch.Tensor:
        norm: Any = super()._clip()
        whole: torch.Tensor = norm.full_tensor()
        return whole

    def _whole(self, shards: Mapping[str, Any]) -> State:
        whole = {}
        for name, shard in shards.items():
            tensor = shard.full_tensor() if hasattr(shard, "full_tensor") else shard
            if self.engine.rank == 0:
                whole[name] = tensor.cpu()
        return whole


class Zero(Replicated):
    """DeepSpeed shares out the moments (stage 1), gradients as well (2), weights too (3)."""

    is_sharded = True

    def _share_out(self) -> Any:
        engine, train, model = self.engine, self.train, self.module
        self._saved = set(model.state_dict())
        deepspeed = _import_deepspeed(engine)
        self._deepspeed, *_ = deepspeed.initialize(
            model=model,
            optimizer=build_optimizer(model, train),
            config={
                "train_micro_batch_size_per_gpu": 1,  # ours have as many windows as fit
                "managed_gradient_accumulation": False,  # a step ends where we say so
                "gradient_clipping": train.clip_norm,
                "zero_optimization": {"stage": int(train.engine[-1])},
                "zero_allow_untested_optimizer": True,
                "torch_autocast": {
                    "enabled": engine.precision == "bf16",
                    "dtype": "bfloat16",
                    "lower_precision_safe_modules": [],  # weights and gradients travel in fp32
                },
            },
        )
        self.model = self._deepspeed
        self._shards: torch.optim.Optimizer = self._deepspeed.optimizer.optimizer
        return self._deepspeed.optimizer

    def backward(self, compute_loss: Callable[[], torch.Tensor], is_last: bool) -> torch.Tensor:
        loss = compute_loss()
        self._deepspeed.backward(loss * self.engine.world_size, scale_wrt_gas=False)
        return loss.detach()

    def update(self, rate: float, loss: torch.Tensor) -> torch.Tensor:
        if self.bad_steps.item() or not loss.isfinite().item():
            self.bad_steps += 1
            return torch.full((), math.nan)
        self._set_rate(rate)
        self._deepspeed.step()  # skipped if the norm isn't finite
        self.bad_steps += not self._deepspeed.was_step_applied()
        return torch.as_tensor(self._deepspeed.get_global_grad_norm())

    def forget_gradients(self) -> None:
        # DeepSpeed links moments to parameters at its first update only, and only those there are;
        # at rate 0 that update changes nothing.
        for group in self._shards.param_groups:
            for shard in group["params"]:
                state = {moment: torch.zeros_like(shard) for moment in MOMENTS}
                self._shards.state[shard] = {"step": torch.zeros((), device=shard.device), **state}
        self._set_rate(0.0)
        self._deepspeed.step()
        self._count_updates(0)

    def weights(self) -> State:
        from deepspeed import zero
        from deepspeed.utils import safe_get_full_fp32_param

        def whole(parameter: nn.Parameter) -> Any:
            tensor = safe_get_full_fp32_param(parameter)
            if tensor is None:  # a frozen one
                with zero.GatheredParameters([parameter]):
                    tensor = parameter.detach().clone()
            return tensor

        weights = self._whole(whole)
        if self.engine.rank == 0:
            buffers = self.module.named_buffers(remove_duplicate=False)
            weights |= {name: buffer for name, buffer in buffers if name in self._saved}
        return weights

    def moments(self) -> State:
        from deepspeed.utils import safe_get_full_optimizer_state

        moments = {}
        for moment in MOMENTS:
            gather = partial(safe_get_full_optimizer_state, optim_state_key=moment)
            for name, tensor in self._whole(gather, is_trained=True).items():
                moments[f"{moment}/{name}"] = tensor
        return moments

    def load_moments(
        self, tensors: Mapping[str, torch.Tensor], num_updates: Callable[[str], int]
    ) -> None:
        from deepspeed import utils

        for name, parameter in self.module.named_parameters():
            for moment in MOMENTS:
                if (whole := tensors.get(f"{moment}/{name}")) is None:
                    continue
                if self.train.engine == "zero3":  # each rank has ceil(size / ranks) of each
                    size = utils.safe_get_local_optimizer_state(parameter, moment).numel()
                    part = nn.functional.pad(whole.flatten(), (0, size * self.engine.world_size))
                    part = part[size * self.engine.rank :][:size]
                    utils.safe_set_local_optimizer_state(parameter, part, moment)
                else:
                    utils.safe_set_full_optimizer_state(parameter, whole, moment)
        self._count_updates(num_updates(""))

    def _count_updates(self, num_updates: int) -> None:
        for state in self._shards.state.values():
            state["step"].fill_(num_updates)

    @contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        with super().evaluating():
            yield self.model

    def _whole(
        self, gather: Callable[[nn.Parameter], torch.Tensor], is_trained: bool = False
    ) -> State:
        whole = {}
        for name, parameter in self.module.named_parameters(remove_duplicate=is_trained):
            if name in self._saved and (parameter.requires_grad or not is_trained):
                tensor = gather(parameter)
                if self.engine.rank == 0:
                    whole[name] = tensor.cpu()
        return whole


def lay_out(engine: Engine, model: nn.Module, train: Train) -> Replicated:
    """Return the layout that train.engine asks for; one rank alone has all, whatever is asked."""
    if engine.world_size == 1 or train.engine == "ddp":
        return Replicated(engine, model, train)
    return (
        FullySharded(engine, model, train) if train.engine == "fsdp" else Zero(engine, model, train)
    )


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield what is gathered at a time: the outermost members of lists, such as an encoder's
    layers."""
    for child in module.children():
        if isinstance(module, nn.ModuleList):
            yield child
        else:
            yield from _blocks(child)


def _import_deepspeed(engine: Engine) -> Any:
    on_cpu = engine.device.type == "cpu"
    if on_cpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    # It calls torch's collectives by names that torch is about to change.
    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    if on_cpu:
        # Else a compiler is called, for minutes, to add within one machine what gloo adds anyhow.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="gloo" if on_cpu else "nccl", auto_mpi_discovery=False)
    return deepspeed
