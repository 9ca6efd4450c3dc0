import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from common.errors import UsageError
from heads.segmentation.core.losses import LOSSES, make_loss


def example():
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    masks = torch.randint(0, 3, (2, 5, 6))  # class 3 is absent
    masks[torch.rand(masks.shape) < 0.3] = 255
    return logits, masks


def by_hand(name, logits, masks):
    """The loss as plain loops over pixels."""
    terms, overlap, predicted, true = [], [0.0] * 4, [0.0] * 4, [0.0] * 4
    for b in range(2):
        for y in range(5):
            for x in range(6):
                label = masks[b, y, x].item()
                if label == 255:
                    continue
                p = logits[b, :, y, x].float().softmax(0)
                terms.append(
                    {"cross_entropy": -p[label].log(), "focal": -((1 - p[label]) ** 2) * p[label].log()}.get(name)
                )
                true[label] += 1
                overlap[label] += p[label]
                for c in range(4):
                    predicted[c] += p[c]
    if name in ("cross_entropy", "focal"):
        return sum(terms) / len(terms)
    present = [c for c in range(4) if true[c]]
    if name == "dice":
        return 1 - sum(2 * overlap[c] / (predicted[c] + true[c]) for c in present) / len(present)
    return 1 - sum(overlap[c] / (predicted[c] + true[c] - overlap[c]) for c in present) / len(present)


@pytest.mark.parametrize("name", LOSSES)
def test_equals_loops_over_pixels(name):
    logits, masks = example()
    assert make_loss([name])(logits, masks).item() == pytest.approx(by_hand(name, logits, masks).item(), rel=1e-5)


@pytest.mark.parametrize("terms", [[name] for name in LOSSES] + [["cross_entropy", "dice=0.5"]])
def test_void_reaches_no_loss_and_no_gradient(terms):
    logits, masks = example()
    loss = make_loss(terms)(logits, masks)
    loss.backward()
    void = (masks == 255)[:, None].expand_as(logits)
    assert (logits.grad[void] == 0).all()
    assert (logits.grad[~void] != 0).any()
    changed = torch.where(void, torch.randn_like(logits) * 100, logits.detach())
    assert make_loss(terms)(changed, masks).item() == pytest.approx(loss.item())


def test_only_void_gives_zero_and_zero_gradients():
    logits, masks = example()
    loss = make_loss(["cross_entropy", "jaccard"])(logits, torch.full_like(masks, 255))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_sums_by_weight():
    logits, masks = example()
    parts = make_loss(["cross_entropy"])(logits, masks) + 0.5 * make_loss(["dice"])(logits, masks)
    assert make_loss(["cross_entropy", "dice=0.5"])(logits, masks).item() == pytest.approx(parts.item())


@pytest.mark.parametrize(
    "terms, message", [(["dise"], "did you mean dice"), (["dice=x"], "positive"), (["dice=-1"], "positive")]
)
def test_refuses(terms, message):
    with pytest.raises(UsageError, match=message):
        make_loss(terms)


def weighted_losses(images):
    """Loss of each kind and its gradient for a 1 × 1 convolution, on some of the four images, of which the last two are void."""
    logits, masks = example()
    logits, masks = torch.cat([logits, 2 * logits]).detach(), torch.cat([masks, torch.full_like(masks, 255)])
    results = {}
    for name in LOSSES:
        weight = torch.eye(4, dtype=logits.dtype).requires_grad_()
        loss = make_loss([name])(torch.einsum("dc,bchw->bdhw", weight, logits[images]), masks[images])
        loss.backward()
        results[name] = (loss.detach().double(), weight.grad)
    return results


def run_rank(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    results = weighted_losses(slice(2 * rank, 2 * rank + 2))
    for values in results.values():
        for value in values:  # as the trainer does: means over ranks
            dist.all_reduce(value)
            value /= 2
    torch.save(results, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def test_a_rank_whose_pixels_are_all_void_takes_part(tmp_path):
    mp.spawn(run_rank, (str(tmp_path),), nprocs=2)
    expected = weighted_losses(slice(4))
    for rank in range(2):
        found = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        for name in LOSSES:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-7)
