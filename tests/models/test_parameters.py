"""Parameters of known models, counted on the meta device."""

from __future__ import annotations

import pytest
import torch
import transformers

from qa_dist.models.encoder import without_pooler
from qa_dist.models.multitask import MultitaskModel, add_adapters
from qa_dist.models.parameters import Part, count_parameters, show_parameters
from qa_dist.models.span import SpanHead
from qa_dist.recipe import Model


def bert_base(*names: str) -> MultitaskModel:
    """Return bert-base-uncased's shape with a linear head of 9 labels and a span head."""
    with torch.device("meta"):
        config = transformers.BertConfig()  # whose defaults are that model's
        encoder = transformers.AutoModel.from_config(config, **without_pooler(config))
        heads = [torch.nn.Linear(768, 9), SpanHead(768, 0)]
        return MultitaskModel(encoder, heads[: len(names)], names)


def test_the_reports_table_of_ner_and_qa_on_bert_base() -> None:
    parts = {part.name: part for part in count_parameters(bert_base("ner", "squad"))}
    assert list(parts) == ["encoder", "head ner", "head squad", "total"]
    encoder, total = parts["encoder"], parts["total"]
    assert encoder.parameters + encoder.pooler == 109_482_240
    assert encoder.pooler == 590_592
    assert parts["head ner"].parameters == 6_921 and parts["head squad"].parameters == 1_538
    assert total.parameters + total.pooler == 109_490_699
    assert total.parameters == total.trained == 108_900_107
    lines = show_parameters(list(parts.values()))
    assert "108,891,648  (109,482,240 with the pooler" in lines[0]
    assert "108,900,107  (109,490,699 with the pooler" in lines[-1]


@pytest.mark.parametrize("is_frozen", [True, False])
def test_adapters_are_counted_for_each_source(is_frozen: bool) -> None:
    model = bert_base("ner", "squad")
    with torch.device("meta"):
        settings = Model(lora_rank=4, freeze_encoder=is_frozen)
        model.encoder = add_adapters(model.encoder, settings, ["ner", "squad"])
    parts = {part.name: part for part in count_parameters(model)}
    # rank 4 on four 768 x 768 layers and 768 x 3072 both ways, in each of 12 blocks
    each = 12 * 4 * (4 * (768 + 768) + 2 * (768 + 3072))
    assert parts["adapter ner"] == Part("adapter ner", each, each)
    assert parts["adapter squad"].parameters == each
    assert parts["encoder"].parameters == 108_891_648
    assert parts["encoder"].trained == (0 if is_frozen else 108_891_648)
    assert parts["total"].trained == parts["encoder"].trained + 2 * each + 6_921 + 1_538


def test_an_encoder_without_a_pooler_of_its_own_misses_none() -> None:
    with torch.device("meta"):
        encoder = transformers.AutoModel.from_config(transformers.DistilBertConfig())
        model = MultitaskModel(encoder, [SpanHead(768, 0)], ["squad"])
    assert count_parameters(model)[-1].pooler == 0
    assert "pooler" not in show_parameters(count_parameters(model))[0]


def test_any_other_model_is_one_part() -> None:
    net = torch.nn.Linear(3, 2)
    net.bias.requires_grad_(False)
    assert count_parameters(net) == [Part("model", 8, 6)]
    assert show_parameters(count_parameters(net)) == ["model                        8  trained: 6"]
