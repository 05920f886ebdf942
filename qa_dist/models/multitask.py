"""One encoder with a head for each source; one source is the plain case.

A step trains on one source. Head and adapter of the others take part with a factor of 0, so that
each parameter has a gradient on each rank (DDP waits for all), and aren't updated in that step.
B windows, T tokens, H hidden.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from qa_dist.data.collate import Batch
from qa_dist.models.attention import is_packed
from qa_dist.models.encoder import encode
from qa_dist.recipe import Model


class MultitaskModel(nn.Module):
    """`encoder` and `heads`, one for each source."""

    def __init__(
        self, encoder: nn.Module, heads: Sequence[nn.Module], names: Sequence[str]
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleList(heads)
        self.names = list(names)
        self._owners = self._find_owners()

    def forward(self, batch: Batch, source: int = 0) -> torch.Tensor:
        """Return the loss of a batch of a source, summed over its targets, in fp32: ()."""
        hidden = self.hidden(batch, source)
        with torch.autocast(hidden.device.type, enabled=False):
            loss: torch.Tensor = self.heads[source].loss(hidden.float(), batch)  # type: ignore[operator]
            for parameter in self._idle_parameters(source):
                loss = loss + 0.0 * parameter.sum()
        return loss

    def hidden(self, batch: Batch, source: int = 0) -> torch.Tensor:
        """Return the encoder's last hidden states, with the source's adapter: (B, T, H)."""
        if len(self.names) > 1 and hasattr(self.encoder, "peft_config"):
            self._use_adapter(self.names[source])
        return encode(self.encoder, batch)

    @property
    def is_packed(self) -> bool:
        """Whether batches are computed as packed rows."""
        return is_packed(self.encoder)

    def owners(self) -> dict[str, int]:
        """Return the source that a parameter alone serves, by name: of heads and adapters, where
        there are several sources."""
        return self._owners

    def _find_owners(self) -> dict[str, int]:
        if len(self.names) == 1:
            return {}
        owned = {}
        for name, _ in self.named_parameters():
            for source, source_name in enumerate(self.names):
                is_adapter = ".lora_" in name and f".{source_name}." in name
                if is_adapter or name.startswith(f"heads.{source}."):
                    owned[name] = source
        return owned

    def _idle_parameters(self, source: int) -> Iterator[nn.Parameter]:
        """Yield the parameters that serve the other sources alone; not those that FSDP has shared
        out, which doesn't wait for them."""
        if self._owners:
            for name, parameter in self.named_parameters():
                is_shard = hasattr(parameter, "full_tensor")
                if self._owners.get(name, source) != source and not is_shard:
                    yield parameter

    def _use_adapter(self, name: str) -> None:
        self.encoder.set_adapter(name)  # type: ignore[operator]
        for adapted, parameter in self.encoder.named_parameters():
            if ".lora_" in adapted:  # peft freezes those that it doesn't use
                parameter.requires_grad_(True)


def add_adapters(encoder: nn.Module, model: Model, names: Sequence[str]) -> nn.Module:
    """Return the encoder with LoRA adapters (Hu et al. 2021) on its linear layers, one for each
    name, whose weights depend on torch's seed; the encoder's own weights are trained unless
    `model.freeze_encoder`."""
    import peft

    config = peft.LoraConfig(
        r=model.lora_rank,
        lora_alpha=model.lora_alpha,  # type: ignore[arg-type]  # any number will do
        lora_dropout=model.lora_dropout,
        target_modules="all-linear",
    )
    with warnings.catch_warnings():  # peft asks by a name that transformers is about to drop
        warnings.filterwarnings(
            "ignore", ".is_gradient_checkpointing. is deprecated", FutureWarning
        )
        adapted: nn.Module = peft.get_peft_model(encoder, config, adapter_name=names[0])
    for name in names[1:]:
        adapted.add_adapter(name, config)  # type: ignore[operator]
    for name, parameter in adapted.named_parameters():
        parameter.requires_grad_(".lora_" in name or not model.freeze_encoder)
    return adapted
