"""What is trained: an encoder with a head for each source, or a language model.

`model.head: span` is models/span.py. A head is a module with `loss(hidden, batch)`; to add one,
write its file, and name it in `_new_head`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from qa_dist.models.causal_lm import build_causal_lm
from qa_dist.models.encoder import load_encoder
from qa_dist.models.multitask import MultitaskModel, add_adapters
from qa_dist.models.span import SpanHead
from qa_dist.models.tags import TagHead
from qa_dist.processes import quick_start
from qa_dist.recipe import Recipe, form_of, source_names, trained_sources


@quick_start()
def build_model(
    recipe: Recipe, classes: Sequence[Sequence[str]], is_packed: bool = False
) -> nn.Module:
    """Load the encoder and put a new head on it for each trained source, whose weights depend on
    train.seed only.

    `classes`: for each of those sources the names of its answer classes or labels. `is_packed`:
    batches are computed as packed rows (attention.py says where that can be). Called with (Batch,
    number of the source among them) the model returns a summed loss: (). Raises InputError if the
    encoder can't be loaded.
    """
    if recipe.model.head == "causal_lm":
        return build_causal_lm(recipe.model, recipe.train.seed, is_packed)
    encoder = load_encoder(recipe.model, is_packed)
    places, names = trained_sources(recipe), source_names(recipe)
    hidden_size: int = encoder.config.hidden_size  # type: ignore[assignment,union-attr]
    std: float = getattr(encoder.config, "initializer_range", 0.02)
    heads = []
    for place, labels in zip(places, classes, strict=True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.train.seed)
            head = _new_head(recipe, place, hidden_size, len(labels))
            for layer in head.modules():
                if isinstance(layer, nn.Linear):
                    nn.init.normal_(layer.weight, std=std)
                    nn.init.zeros_(layer.bias)
        heads.append(head)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.train.seed)
        if recipe.model.lora_rank:
            encoder = add_adapters(encoder, recipe.model, [names[place] for place in places])
        elif recipe.model.freeze_encoder:
            encoder.requires_grad_(False)
    return MultitaskModel(encoder, heads, [names[place] for place in places])


def _new_head(recipe: Recipe, place: int, hidden_size: int, num_classes: int) -> nn.Module:
    if form_of(recipe, recipe.sources[place]) == "tags":
        return TagHead(hidden_size, num_classes)
    if recipe.model.head == "span_crf":
        from qa_dist.models.span_crf import SpanCrfHead  # and pytorch-crf with it

        return SpanCrfHead(hidden_size)
    return SpanHead(hidden_size, num_classes)
