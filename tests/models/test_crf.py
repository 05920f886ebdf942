"""The CRF against pytorch-crf's, against all paths one by one, and against its own worked
example."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchcrf import CRF

from qa_dist.models.crf import LinearChainCRF

LENGTHS = (1, 2, 3, 7, 8, 9, 63, 511, 512, 513)


def make_pair(num_labels: int, seed: int = 0) -> tuple[LinearChainCRF, Any]:
    """Return ours in fp32 and pytorch-crf's in float64, with the same parameters."""
    torch.manual_seed(seed)
    ours, theirs = LinearChainCRF(num_labels), CRF(num_labels, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs.double()


def make_batch(
    lengths: list[int], num_labels: int, scale: float = 1.0, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return emissions, labels and mask of sequences of these lengths."""
    generator = torch.Generator().manual_seed(seed)
    size = (len(lengths), max(lengths))
    emissions = scale * torch.randn(*size, num_labels, generator=generator)
    labels = torch.randint(num_labels, size, generator=generator)
    return emissions, labels, torch.arange(size[1]) < torch.tensor(lengths)[:, None]


def all_paths(
    crf: LinearChainCRF, emissions: Tensor, length: int
) -> tuple[list[tuple[int, ...]], Tensor]:
    """Return each path of one sequence and its score, in float64."""
    start, end, transitions = (value.detach() for value in crf.scores(torch.float64))
    paths = list(itertools.product(range(crf.num_tags), repeat=length))
    scores = []
    for path in paths:
        score = start[path[0]] + end[path[-1]]
        score = score + sum(emissions[t, label].double() for t, label in enumerate(path))
        score = score + sum(transitions[a, b] for a, b in itertools.pairwise(path))
        scores.append(score)
    return paths, torch.stack(scores)


def test_the_worked_example() -> None:
    """The numbers at the module's head."""
    crf = LinearChainCRF(2)
    with torch.no_grad():
        for parameter in crf.parameters():
            parameter.zero_()
        crf.transitions[1, 1] = -1.0
    emissions = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    assert crf.log_partition(emissions).item() == pytest.approx(3.2780, abs=5e-5)
    assert crf.decode(emissions) == [[0, 1]]
    likelihood = crf.log_likelihood(emissions, torch.tensor([[0, 1]]))
    assert likelihood.item() == pytest.approx(-0.2780, abs=5e-5)
    assert crf.marginals(emissions)[0, 0, 1].item() == pytest.approx(0.1402, abs=5e-5)


@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("num_steps", LENGTHS)
def test_values_and_gradients_are_pytorch_crfs(num_steps: int, scale: float) -> None:
    for num_labels in (3, 5):
        ours, theirs = make_pair(num_labels)
        lengths = [num_steps, 1, max(1, num_steps // 2), max(1, num_steps - 1)]
        emissions, labels, mask = make_batch(lengths, num_labels, scale)
        mine, other = emissions.clone().requires_grad_(), emissions.double().requires_grad_()
        value = ours.log_likelihood(mine, labels.masked_fill(~mask, -100), mask)
        expected = theirs(other, labels, mask, reduction="none")
        value.sum().backward()
        expected.sum().backward()
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-4)
        torch.testing.assert_close(mine.grad.double(), other.grad, rtol=0, atol=1e-5)
        for name, parameter in ours.named_parameters():
            gradient = theirs.get_parameter(name).grad
            if gradient is not None:  # pytorch-crf's has none where there is one step only
                torch.testing.assert_close(parameter.grad.double(), gradient, rtol=1e-5, atol=1e-4)
        log_z = theirs._compute_normalizer(other.transpose(0, 1), mask.T)
        torch.testing.assert_close(
            ours.log_partition(emissions, mask).double(), log_z, rtol=1e-6, atol=1e-4
        )


def test_a_likelihood_is_exact_where_scores_are_huge() -> None:
    """score - log Z is small though both are 5e6, of which fp32 holds no decimals."""
    ours, theirs = make_pair(3)
    emissions, labels, mask = make_batch([512, 511, 1], 3)
    emissions += 1e4
    exact = theirs(emissions.double(), labels, mask, reduction="none")
    value = ours.log_likelihood(emissions, labels, mask)
    torch.testing.assert_close(value.double(), exact, rtol=1e-7, atol=1e-4)
    in_fp32 = theirs.float()(emissions, labels, mask, reduction="none").double()
    assert (in_fp32 - exact).abs().max() > 1e-2


@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("num_steps", LENGTHS)
def test_decoded_labels_are_pytorch_crfs(num_steps: int, scale: float) -> None:
    for num_labels in (1, 3, 5):
        ours, theirs = make_pair(num_labels)
        lengths = [num_steps, 1, max(1, num_steps // 2), max(1, num_steps - 1)]
        emissions, _, mask = make_batch(lengths, num_labels, scale)
        assert ours.decode(emissions, mask) == theirs.float().decode(emissions, mask)
        doubled = ours.double().decode(emissions.double(), mask)
        assert doubled == theirs.double().decode(emissions.double(), mask)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    num_labels=st.integers(1, 3),
    scale=st.sampled_from([0.0, 1.0, 30.0, 1e4]),
    seed=st.integers(0, 10_000),
)
def test_all_paths_one_by_one(lengths: list[int], num_labels: int, scale: float, seed: int) -> None:
    crf, _ = make_pair(num_labels, seed)
    emissions, labels, mask = make_batch(lengths, num_labels, scale, seed)
    log_z, marginals = crf.log_partition(emissions, mask), crf.marginals(emissions, mask)
    values, decoded = crf.log_likelihood(emissions, labels, mask), crf.decode(emissions, mask)
    for b, length in enumerate(lengths):
        paths, scores = all_paths(crf, emissions[b], length)
        expected = scores.logsumexp(0)
        torch.testing.assert_close(log_z[b].double(), expected, rtol=1e-6, atol=1e-4)
        score = scores[paths.index(tuple(labels[b, :length].tolist()))]
        torch.testing.assert_close(values[b].double(), score - expected, rtol=1e-6, atol=1e-4)
        best, *others = scores.sort(descending=True).values.tolist()
        reached = scores[paths.index(tuple(decoded[b]))].item()
        assert reached == pytest.approx(best, abs=1e-6 * max(1.0, scale) * length)
        if not others or best - others[0] > 1e-5 * max(1.0, scale) * length:
            assert tuple(decoded[b]) == paths[int(scores.argmax())]
        chances = (scores - expected).exp()
        for t, label in itertools.product(range(length), range(num_labels)):
            share = sum(c for p, c in zip(paths, chances, strict=True) if p[t] == label)
            assert marginals[b, t, label].item() == pytest.approx(float(share), abs=1e-5)
        assert not marginals[b, length:].any()


def test_gradients_are_the_differences() -> None:
    """In float64, by finite differences, through constraints and a ragged mask."""
    allowed = torch.ones(3, 3, dtype=torch.bool)
    allowed[0, 2] = False
    crf = LinearChainCRF(3, allowed, torch.tensor([True, True, False])).double()
    emissions, _, mask = make_batch([9, 1, 4], 3)
    labels = torch.zeros(3, 9, dtype=torch.long)

    def likelihood(values: Tensor, start: Tensor, end: Tensor, moves: Tensor) -> Tensor:
        changed = {"start_transitions": start, "end_transitions": end, "transitions": moves}
        result: Tensor = torch.func.functional_call(crf, changed, (values, labels, mask, "none"))
        return result

    inputs = [emissions.double(), *(p.detach().clone() for p in crf.parameters())]
    assert torch.autograd.gradcheck(likelihood, [x.requires_grad_() for x in inputs])


def test_what_is_forbidden_has_no_probability_and_gradients_stay_finite() -> None:
    allowed = torch.tensor([[True, True, False], [True, True, True], [True, True, True]])
    starts, ends = torch.tensor([True, True, False]), torch.tensor([True, True, False])
    crf = LinearChainCRF(3, allowed, starts, ends)
    emissions, labels, mask = make_batch([6, 1, 3], 3)
    emissions[..., 2] += 5.0  # label 2 would win everywhere
    emissions.requires_grad_()
    with torch.no_grad():
        paths = crf.decode(emissions, mask)
        for b, length in enumerate((6, 1, 3)):
            every, scores = all_paths(crf, emissions[b], length)
            legal = [
                s
                for p, s in zip(every, scores, strict=True)
                if p[0] != 2 and p[-1] != 2 and (0, 2) not in itertools.pairwise(p)
            ]
            log_z = crf.log_partition(emissions, mask)[b].double()
            torch.testing.assert_close(log_z, torch.stack(legal).logsumexp(0), rtol=0, atol=1e-4)
            assert paths[b] == list(every[int(scores.argmax())])
        free = LinearChainCRF(3)
        free.load_state_dict(crf.state_dict())
        assert free.decode(emissions, mask) != paths
    marginals = crf.marginals(emissions, mask)
    assert marginals[:, 0, 2].max() == 0
    crf.log_likelihood(emissions, labels, mask).sum().backward()  # random labels break the rules
    for tensor in (emissions, *crf.parameters()):
        assert tensor.grad is not None and torch.isfinite(tensor.grad).all()
    assert crf.transitions.grad is not None and crf.transitions.grad[0, 2] == 0


def test_state_dicts_are_pytorch_crfs_with_and_without_constraints() -> None:
    theirs = CRF(4, batch_first=True)
    ours = LinearChainCRF(4, torch.eye(4, dtype=torch.bool))
    assert isinstance(ours, CRF)
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    assert ours.state_dict().keys() == theirs.state_dict().keys()


@pytest.mark.parametrize("reduction", ["none", "sum", "mean", "token_mean"])
def test_forward_reduces_as_pytorch_crf(reduction: str) -> None:
    ours, theirs = make_pair(3)
    emissions, labels, mask = make_batch([5, 2], 3)
    for m in (mask, mask.to(torch.uint8), None):
        expected = theirs(emissions.double(), labels, m, reduction=reduction)
        mine = ours(emissions, labels, m, reduction=reduction)
        torch.testing.assert_close(mine.double(), expected, rtol=0, atol=1e-5)


def test_bf16_and_autocast_compute_as_fp32() -> None:
    ours, _ = make_pair(3)
    emissions, labels, mask = make_batch([40, 7], 3)
    low = emissions.bfloat16()
    expected = ours.log_likelihood(low.float(), labels, mask)
    with torch.autocast("cpu", torch.bfloat16):
        value = ours.log_likelihood(low, labels, mask)
        decoded = ours.decode(low, mask)
        chances = ours.marginals(low, mask)
    assert value.dtype == chances.dtype == torch.float32
    assert torch.equal(value, expected)
    assert decoded == ours.decode(low.float(), mask)
    assert not torch.equal(value, ours.log_likelihood(emissions, labels, mask))


@pytest.mark.parametrize(
    ("mask", "labels", "message"),
    [
        ([[1, 0, 1]], [[0, 0, 0]], "without holes"),
        ([[0, 1, 1]], [[0, 0, 0]], "from its first step"),
        ([[0, 0, 0]], [[0, 0, 0]], "from its first step"),
        ([[1, 1]], [[0, 0, 0]], "mask: expected"),
        ([[1, 1, 0]], [[0, 3, 0]], "labels: expected 0 to 2"),
        ([[1, 1, 0]], [[0, -100, 0]], "labels: expected 0 to 2"),
        ([[1, 1, 1]], [[0, 0]], "labels: expected"),
    ],
)
def test_bad_masks_and_labels_are_refused(mask: Any, labels: Any, message: str) -> None:
    crf, emissions = LinearChainCRF(3), torch.zeros(1, 3, 3)
    with pytest.raises(ValueError, match=message):
        crf.log_likelihood(emissions, torch.tensor(labels), torch.tensor(mask).bool())
    if message.startswith(("without", "from", "mask")):
        with pytest.raises(ValueError, match=message):
            crf.decode(emissions, torch.tensor(mask).bool())


def test_bad_sizes_are_refused_and_no_sequences_are_none() -> None:
    crf = LinearChainCRF(3)
    for size in ((1, 0, 3), (1, 2, 4), (2, 3)):
        with pytest.raises(ValueError, match="emissions: expected"):
            crf.log_partition(torch.zeros(*size))
    with pytest.raises(ValueError, match="allowed_starts: expected bool"):
        LinearChainCRF(3, allowed_starts=torch.ones(3))
    with pytest.raises(ValueError, match="reduction='max'"):
        crf(torch.zeros(1, 1, 3), torch.zeros(1, 1, dtype=torch.long), reduction="max")
    assert crf.decode(torch.zeros(0, 4, 3)) == []
    assert crf.log_partition(torch.zeros(0, 4, 3)).shape == (0,)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_the_cpus_values_without_waiting_for_the_host() -> None:
    ours, _ = make_pair(3)
    emissions, labels, mask = make_batch([300, 5], 3)
    expected, paths = ours.log_likelihood(emissions, labels, mask), ours.decode(emissions, mask)
    ours.cuda()
    on_gpu = [x.cuda() for x in (emissions, labels, mask)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        values = ours.log_likelihood(on_gpu[0].requires_grad_(), *on_gpu[1:])
        values.sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(values.cpu(), expected)
    assert ours.decode(on_gpu[0], on_gpu[2]) == paths
