"""The gathered head against naive autograd, finite differences and values worked by hand."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tabom.core.errors import ObjectiveError
from tabom.models.costs import HEAD_TILE_BYTES
from tabom.vocabulary import sizes
from tabom.vocabulary.head import linear_ce_entropy

# "partly" has room for the first tiles alone, where a test cuts the vocabulary into several.
MODES = {"dense": {}, "partly": {"max_buffer_bytes": 500}, "tiled": {"max_buffer_bytes": 0}}


def _naive(hidden: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    log_p = (hidden @ weight.t()).log_softmax(-1)
    return -log_p.gather(1, labels[:, None])[:, 0], -(log_p.exp() * log_p).sum(1)


def _inputs(
    rows: int = 5, vocab: int = 23, dim: int = 7, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(rows * 1000 + vocab)
    return (
        torch.randn(rows, dim, generator=g, dtype=torch.float64).to(dtype),
        torch.randn(vocab, dim, generator=g, dtype=torch.float64).to(dtype),
        torch.randint(0, vocab, (rows,), generator=g),
    )


@pytest.mark.parametrize("mode", MODES)
def test_values_worked_by_hand(mode: str) -> None:
    """p = (1/2, 1/4, 1/4): ce of the second entry ln 4, entropy (3/2) ln 2."""
    hidden = torch.tensor([[1.0]], dtype=torch.float64)
    weight = torch.tensor([[2.0], [1.0], [1.0]], dtype=torch.float64) * math.log(2)
    ce, entropy = linear_ce_entropy(hidden, weight, torch.tensor([1]), tile_size=2, **MODES[mode])
    assert ce.item() == pytest.approx(math.log(4), abs=1e-14)
    assert entropy.item() == pytest.approx(1.5 * math.log(2), abs=1e-14)


def test_gradcheck_tiled_through_both_outputs_hidden_and_weight() -> None:
    hidden, weight, labels = _inputs()
    assert torch.autograd.gradcheck(
        lambda h, w: linear_ce_entropy(h, w, labels, max_buffer_bytes=0, tile_size=9),
        (hidden.requires_grad_(), weight.requires_grad_()),
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("which", ["ce", "entropy", "both"])
def test_finite_differences_with_a_fresh_forward_each(mode: str, which: str) -> None:
    """Dense mode spends its buffer in backward, so `gradcheck` (many backwards) cannot be used."""
    hidden, weight, labels = _inputs()
    g = torch.Generator().manual_seed(1)
    push = torch.randn(2, len(labels), generator=g, dtype=torch.float64)
    push[0] *= which != "entropy"
    push[1] *= which != "ce"

    def value(h: Tensor, w: Tensor) -> Tensor:
        ce, entropy = linear_ce_entropy(h, w, labels, tile_size=9, **MODES[mode])
        if which == "ce":
            return (push[0] * ce).sum()
        if which == "entropy":
            return (push[1] * entropy).sum()
        return (push[0] * ce + push[1] * entropy).sum()

    h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    value(h, w).backward()
    for leaf, base in ((h, hidden), (w, weight)):
        assert leaf.grad is not None
        for index in range(base.numel()):
            shift = torch.zeros_like(base).view(-1)
            shift[index] = 1e-6
            shift = shift.view_as(base)
            up = value(*((base + shift, weight) if base is hidden else (hidden, base + shift)))
            down = value(*((base - shift, weight) if base is hidden else (hidden, base - shift)))
            assert leaf.grad.view(-1)[index].item() == pytest.approx(
                ((up - down) / 2e-6).item(), abs=1e-7
            )


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 9),
    vocab=st.integers(1, 40),
    tile=st.integers(1, 50),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
)
def test_dense_equals_tiled_equals_naive_in_float32(
    rows: int, vocab: int, tile: int, scale: float
) -> None:
    hidden, weight, labels = _inputs(rows, vocab, dtype=torch.float32)
    hidden = hidden * scale
    results = []
    for run in ("naive", *MODES):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        if run == "naive":
            ce, entropy = _naive(h, w, labels)
        else:
            ce, entropy = linear_ce_entropy(h, w, labels, tile_size=tile, **MODES[run])
        (ce.sum() + 0.7 * entropy.pow(2).sum()).backward()
        results.append((ce.detach(), entropy.detach(), h.grad, w.grad))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, atol=2e-5 * max(1.0, scale), rtol=2e-5)
    for a, b in zip(results[1], results[2], strict=True):
        assert torch.equal(a, b)  # the same arithmetic, kept or computed again


@pytest.mark.parametrize("mode", MODES)
def test_logits_of_a_thousand_stay_exact(mode: str) -> None:
    hidden, weight, labels = _inputs(6, 31)
    hidden = hidden * 1000
    exact_ce, exact_entropy = _naive(hidden, weight, labels)
    h = hidden.float().requires_grad_()
    ce, entropy = linear_ce_entropy(h, weight.float(), labels, tile_size=8, **MODES[mode])
    torch.testing.assert_close(ce.double(), exact_ce, rtol=1e-5, atol=1e-2)
    torch.testing.assert_close(entropy.double(), exact_entropy, rtol=1e-3, atol=1e-3)
    (ce + entropy).sum().backward()
    assert h.grad is not None
    assert h.grad.isfinite().all()
    assert (entropy >= 0).all()


@pytest.mark.parametrize("mode", MODES)
def test_an_infinite_logit_has_no_probability_and_no_nan(mode: str) -> None:
    """Entries 0-7 (a whole tile) are masked out: the rest is an ordinary softmax."""
    hidden, weight, _ = _inputs(4, 24)
    labels = torch.tensor([8, 9, 20, 23])
    hidden = torch.cat([hidden, torch.ones(4, 1, dtype=torch.float64)], 1)
    bias = torch.zeros(24, 1, dtype=torch.float64)
    bias[:8] = -torch.inf
    h = hidden.clone().requires_grad_()
    ce, entropy = linear_ce_entropy(
        h, torch.cat([weight, bias], 1), labels, tile_size=8, **MODES[mode]
    )
    expected_ce, expected_entropy = _naive(hidden[:, :-1], weight[8:], labels - 8)
    torch.testing.assert_close(ce, expected_ce)
    torch.testing.assert_close(entropy, expected_entropy)
    (ce + 2 * entropy).sum().backward()
    plain = hidden[:, :-1].clone().requires_grad_()
    ce, entropy = _naive(plain, weight[8:], labels - 8)
    (ce + 2 * entropy).sum().backward()
    assert h.grad is not None
    torch.testing.assert_close(h.grad[:, :-1], plain.grad)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_inputs_get_float32_logits(mode: str, dtype: torch.dtype) -> None:
    """Logits stored in 16 bits are wrong by up to 0.1 nat, as much as the margin; ours are not."""
    hidden, weight, labels = _inputs(16, 500, 64, torch.float32)
    hidden, weight = hidden.to(dtype), (weight * 0.6).to(dtype)
    exact_h = hidden.double().requires_grad_()
    exact_ce, exact_entropy = _naive(exact_h, weight.double(), labels)
    (exact_ce - exact_entropy).sum().backward()
    h = hidden.clone().requires_grad_()
    ce, entropy = linear_ce_entropy(h, weight, labels, tile_size=128, **MODES[mode])
    assert ce.dtype == entropy.dtype == torch.float32
    assert (ce - exact_ce).abs().max().item() < 1e-4
    assert (entropy - exact_entropy).abs().max().item() < 1e-4
    (ce - entropy).sum().backward()
    assert h.grad is not None
    assert exact_h.grad is not None
    assert h.grad.dtype == dtype
    assert (h.grad - exact_h.grad).norm() / exact_h.grad.norm() < 5e-3
    rounded = (hidden @ weight.t()).double().log_softmax(-1)
    if dtype == torch.bfloat16:  # the test must be able to tell
        assert (-(rounded.exp() * rounded).sum(1) - exact_entropy).abs().max().item() > 1e-3


def test_autocast_does_not_reach_the_head() -> None:
    hidden, weight, labels = _inputs(4, 30, dtype=torch.float32)
    h1, h2 = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    w1, w2 = weight.clone().requires_grad_(), weight.clone().requires_grad_()
    plain = linear_ce_entropy(h1, w1, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = linear_ce_entropy(h2, w2, labels)
        sum(cast).sum().backward()  # type: ignore[union-attr]
    sum(plain).sum().backward()  # type: ignore[union-attr]
    assert torch.equal(plain[0], cast[0])
    assert torch.equal(plain[1], cast[1])
    assert torch.equal(h1.grad, h2.grad)  # type: ignore[arg-type]
    assert torch.equal(w1.grad, w2.grad)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", MODES)
def test_no_rows_keep_the_graph_and_give_zero_gradients(mode: str) -> None:
    hidden = torch.zeros(0, 7, requires_grad=True)
    weight = torch.randn(9, 7, requires_grad=True)
    empty = torch.zeros(0, dtype=torch.int64)
    ce, entropy = linear_ce_entropy(hidden, weight, empty, tile_size=4, **MODES[mode])
    assert ce.shape == entropy.shape == (0,)
    (ce.sum() + entropy.sum()).backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    assert weight.grad.abs().sum() == 0


def test_frozen_weight_gets_no_gradient_and_a_frozen_body_gets_none() -> None:
    hidden, weight, labels = _inputs()
    h = hidden.clone().requires_grad_()
    linear_ce_entropy(h, weight, labels)[0].sum().backward()
    assert weight.grad is None
    w = weight.clone().requires_grad_()
    linear_ce_entropy(hidden, w, labels)[0].sum().backward()
    assert w.grad is not None
    assert hidden.grad is None


def test_a_second_backward_is_refused_in_dense_and_right_in_tiled_mode() -> None:
    hidden, weight, labels = _inputs()
    h = hidden.clone().requires_grad_()
    ce, _ = linear_ce_entropy(h, weight, labels)
    ce.sum().backward(retain_graph=True)
    with pytest.raises(ObjectiveError, match=r"second backward.*forward again"):
        ce.sum().backward()
    h = hidden.clone().requires_grad_()
    ce, _ = linear_ce_entropy(h, weight, labels, max_buffer_bytes=0)
    ce.sum().backward(retain_graph=True)
    assert h.grad is not None
    once = h.grad.clone()
    ce.sum().backward()
    torch.testing.assert_close(h.grad, 2 * once)


def test_without_gradients_nothing_is_kept() -> None:
    hidden, weight, labels = _inputs()
    with torch.no_grad():
        ce, entropy = linear_ce_entropy(hidden.clone().requires_grad_(), weight, labels)
    assert ce.grad_fn is None
    assert entropy.grad_fn is None
    assert linear_ce_entropy(hidden, weight, labels)[0].grad_fn is None


def test_as_many_tiles_are_kept_as_the_byte_budget_holds() -> None:
    hidden, weight, labels = _inputs(5, 23, dtype=torch.float32)
    h = hidden.requires_grad_()

    def kept(max_buffer_bytes: int) -> list[int]:
        ce, _ = linear_ce_entropy(h, weight, labels, max_buffer_bytes=max_buffer_bytes, tile_size=9)
        return [z.shape[1] for z in ce.grad_fn.kept]  # type: ignore[union-attr]

    assert kept(5 * 23 * 4) == [9, 9, 5]
    assert kept(5 * 23 * 4 - 1) == [9, 9]
    assert kept(5 * 9 * 4) == [9]
    assert kept(5 * 9 * 4 - 1) == kept(0) == []


def test_a_budget_for_some_tiles_changes_no_gradient_and_spends_them_once() -> None:
    hidden, weight, labels = _inputs(5, 23)
    grads = []
    for max_buffer_bytes in (0, 5 * 9 * 8, 10**6):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        ce, entropy = linear_ce_entropy(
            h, w, labels, max_buffer_bytes=max_buffer_bytes, tile_size=9
        )
        (ce.sum() + 3 * entropy.sum()).backward(retain_graph=True)
        grads.append((h.grad, w.grad))
        if max_buffer_bytes:
            with pytest.raises(ObjectiveError, match="second backward"):
                ce.sum().backward()
    for got_h, got_w in grads[1:]:
        torch.testing.assert_close(got_h, grads[0][0], atol=1e-13, rtol=1e-13)
        torch.testing.assert_close(got_w, grads[0][1], atol=1e-13, rtol=1e-13)


def test_the_default_tile_suits_the_device() -> None:
    def width(num_rows: int, device_type: str) -> int:
        return sizes.training_width(num_rows, device_type=device_type, itemsize=4)

    assert width(64, "cpu") == 2048
    # What is not a CPU: 64 MiB of logits a tile, but never less than a CPU's.
    assert width(64, "cuda") == 64 * 2**20 // 4 // 64
    assert width(10**6, "cuda") == 2048
    assert width(0, "cuda") == 64 * 2**20 // 4
    assert sizes.HEAD_TILE_BYTES == HEAD_TILE_BYTES  # what `tabom plan` counts with


def test_tiled_mode_never_holds_more_than_tiles() -> None:
    hidden, weight, labels = _inputs(6, 5000, 4, torch.float32)

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor) and result.shape[:1] == (6,):
                self.numel = max(self.numel, result.numel())
            return result

    found = {}
    for mode in ("tiled", "dense"):
        with Largest() as largest:
            h = hidden.clone().requires_grad_()
            ce, entropy = linear_ce_entropy(h, weight, labels, tile_size=64, **MODES[mode])
            (ce + entropy).sum().backward()
        found[mode] = largest.numel
    # Dense mode keeps its logits too, but in tiles: neither builds [R, V] in one piece.
    assert found == {"tiled": 6 * 64, "dense": 6 * 64}


def test_a_label_outside_the_vocabulary_is_nan_and_bad_shapes_are_errors() -> None:
    hidden, weight, labels = _inputs()
    assert linear_ce_entropy(hidden, weight, labels * 0 + 23)[0].isnan().all()
    assert linear_ce_entropy(hidden, weight, labels * 0 - 100)[0].isnan().all()
    with pytest.raises(ObjectiveError, match=r"weight \(7, 23\).*\[V, D\]"):
        linear_ce_entropy(hidden, weight.t(), labels)
    with pytest.raises(ObjectiveError, match=r"labels \(3,\).*int64 \[R\]"):
        linear_ce_entropy(hidden, weight, labels[:3])
    with pytest.raises(ObjectiveError, match="tile_size"):
        linear_ce_entropy(hidden, weight, labels, tile_size=0)
