"""SigLIP.

Collected from notebooks/08_siglip.ipynb by `make export`: edit the notebook, not this file.
"""

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mmscratch.clip import CLIP, ImageTower, TextTower, check_features, transformers_block
from mmscratch.transformer import check_type, load_mapped, split_queries
from mmscratch.vit import flatten_patches, pair

__all__ = [
    "ChunkedSigmoid",
    "FROM_TRANSFORMERS",
    "Gather",
    "RingSigmoid",
    "SigLIP",
    "add_block",
    "add_rows",
    "check_chunk",
    "check_group",
    "check_pairs",
    "from_transformers",
    "gathered_clip_loss",
    "pair_labels",
    "rank_share",
    "reshape_weights",
    "ring_siglip_loss",
    "scalars",
    "shift",
    "siglip_loss",
    "widen",
]


def pair_labels(
    like: Tensor, start: int = 0, image_ids: Tensor | None = None, text_ids: Tensor | None = None
) -> Tensor:
    """z_ij: +1 where picture start + i and caption j belong together, else -1. As `like`: (n, M).

    Together: start + i = j, or, where ids are given, image_ids[start + i] = text_ids[j].
    """
    if image_ids is None:
        z = torch.full_like(like, -1.0)
        z.diagonal(start).fill_(1.0)
        return z
    match = image_ids[start : start + len(like), None] == text_ids
    return torch.where(match, 1.0, -1.0).to(like.dtype)


def check_pairs(
    image_features: Tensor, text_features: Tensor, image_ids: Tensor | None, text_ids: Tensor | None
) -> None:
    """ValueError unless all features have length one and pair up: row by row, or by their ids."""
    if image_ids is None and text_ids is None:
        return check_features(image_features, text_features)
    for what, features, ids in (("image", image_features, image_ids), ("text", text_features, text_ids)):
        check_features(features, features)
        if ids is None or ids.shape != features.shape[:1]:
            got = None if ids is None else tuple(ids.shape)
            raise ValueError(f"expected {what}_ids ({len(features)},), a number for each row, got {got}")
    if image_features.shape[1] != text_features.shape[1]:
        widths = f"{image_features.shape[1]} and {text_features.shape[1]}"
        raise ValueError(f"expected image and text features of one width, got {widths}")


def check_chunk(chunk_size: int) -> int:
    """`chunk_size`, if it is a whole number of at least one; else ValueError."""
    if not isinstance(chunk_size, int) or isinstance(chunk_size, bool) or chunk_size < 1:
        raise ValueError(f"expected chunk_size to be a whole number >= 1, got {chunk_size!r}")
    return chunk_size


def widen(x: Tensor) -> Tensor:
    """Half precision as float32, in which sums keep their digits; anything else as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def scalars(like: Tensor, *values: Tensor | float) -> list[Tensor]:
    """Numbers, or tensors of one number, as scalars of the kind of `like`, of float32 at least."""
    kind = torch.promote_types(like.dtype, torch.float32)
    return [torch.as_tensor(v, dtype=kind, device=like.device).reshape(()) for v in values]


def siglip_loss(
    image_features: Tensor, text_features: Tensor, logit_scale: Tensor | float, logit_bias: Tensor | float,
    chunk_size: int | None = None, *, image_ids: Tensor | None = None, text_ids: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Pairwise sigmoid loss (Zhai et al. 2023, sec. 3.2). image (N, D), text (M, D), of length one. A scalar.

    -log sigmoid(z_ij (t x_i . y_j + b)), in nats, summed over all pairs, divided by N. Pairs match where
    i = j (then M = N), or where image_ids (N,) and text_ids (M,) agree. `chunk_size`: that many pictures at
    a time, for memory that grows with M, not with N M.
    """
    check_pairs(image_features, text_features, image_ids, text_ids)
    if chunk_size is not None:
        t, b = scalars(image_features, logit_scale, logit_bias)
        return ChunkedSigmoid.apply(
            image_features, text_features, t, b, image_ids, text_ids, check_chunk(chunk_size),
            torch.is_grad_enabled(),
        )  # fmt: skip
    logits = (logit_scale * image_features) @ text_features.T + logit_bias  # (N, M)
    z = pair_labels(logits, 0, image_ids, text_ids)
    return -F.logsigmoid(z * logits).sum() / len(logits)


def add_block(
    image: Tensor, text: Tensor, t: Tensor, b: Tensor, z: Tensor, grads: list[Tensor] | None
) -> Tensor:
    """Sum of -log sigmoid(z (t x_i . y_j + b)) over a block: image (n, D), text (m, D), z (n, m). A scalar.

    Adds the gradients of that sum by image, text, t and b to the four tensors in `grads`, if given.
    """
    x = t * image
    margin = (x @ text.T).add_(b).mul_(z)  # (n, m)
    if grads is not None:
        pull = margin.neg().sigmoid_().mul_(z)  # minus the derivative by the logit, (n, m)
        towards = pull @ text  # (n, D)
        grads[0].addcmul_(t, towards, value=-1)
        grads[1].addmm_(pull.T, x, alpha=-1)
        grads[2] -= (image * towards).sum()
        grads[3] -= pull.sum()
    return -F.logsigmoid(margin).sum()


def add_rows(
    image: Tensor, text: Tensor, t: Tensor, b: Tensor, image_ids: Tensor | None, text_ids: Tensor | None,
    chunk_size: int, grads: list[Tensor] | None,
) -> Tensor:  # fmt: skip
    """`add_block` over all pictures, `chunk_size` at a time: image (N, D), text (M, D) -> scalar.

    Features may be in half precision; values and gradients add up in float32, under autocast too.
    """
    total, text = torch.zeros_like(t), widen(text)
    with torch.autocast(image.device.type, enabled=False):
        for start in range(0, len(image), chunk_size):
            x = widen(image[start : start + chunk_size])
            z = pair_labels(x.new_empty(len(x), len(text)), start, image_ids, text_ids)
            own = grads and [grads[0][start : start + chunk_size], *grads[1:]]
            total += add_block(x, text, t, b, z, own)
    return total


class ChunkedSigmoid(torch.autograd.Function):
    """`siglip_loss` whose gradients are ready when its value is; no block of logits outlives its turn."""

    @staticmethod
    def forward(ctx, image, text, t, b, image_ids, text_ids, chunk_size: int, learn: bool) -> Tensor:
        grads = [torch.zeros_like(x, dtype=t.dtype) for x in (image, text, t, b)] if learn else None
        total = add_rows(image, text, t, b, image_ids, text_ids, chunk_size, grads)
        if learn:
            ctx.save_for_backward(*(grad.div_(len(image)) for grad in grads))
        return total / len(image)

    @staticmethod
    @once_differentiable
    def backward(ctx, up: Tensor) -> tuple:
        return *(up * grad for grad in ctx.saved_tensors), None, None, None, None


def check_group(
    image_features: Tensor, text_features: Tensor, group: dist.ProcessGroup | None
) -> tuple[int, int]:
    """Rank and number of ranks. RuntimeError without a process group.

    ValueError unless all ranks have as many pictures, as many captions, and features of one kind.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError(
            "expected a process group, got none: start with torchrun and call "
            "torch.distributed.init_process_group()"
        )
    world, kinds = dist.get_world_size(group), [torch.float16, torch.bfloat16, torch.float32, torch.float64]
    mine = [[*x.shape, kinds.index(x.dtype)] for x in (image_features, text_features)]
    mine = torch.tensor(mine, device=image_features.device).flatten()  # (6,)
    found = mine.new_empty(6 * world)
    dist.all_gather_into_tensor(found, mine, group=group)
    told = [
        f"images ({n}, {d}) {kinds[k]} and texts ({m}, {e}) {kinds[j]}"
        for n, d, k, m, e, j in found.view(world, 6).tolist()
    ]
    if len(set(told)) > 1:
        raise ValueError(f"expected features of one shape and dtype on all ranks, got {', '.join(told)}")
    return dist.get_rank(group), world


class Gather(torch.autograd.Function):
    """(n, D) on each of W ranks -> (W n, D) on all of them; backward sums what all ranks hand back."""

    @staticmethod
    def forward(ctx, x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group, ctx.shape = group, x.shape
        everything = x.new_empty(dist.get_world_size(group) * len(x), *x.shape[1:])
        dist.all_gather_into_tensor(everything, x.contiguous(), group=group)
        return everything

    @staticmethod
    @once_differentiable
    def backward(ctx, up: Tensor) -> tuple[Tensor, None]:
        mine = up.new_empty(ctx.shape)
        dist.reduce_scatter_tensor(mine, up.contiguous(), group=ctx.group)
        return mine, None


def gathered_clip_loss(
    image_features: Tensor, text_features: Tensor, logit_scale: Tensor | float, *,
    group: dist.ProcessGroup | None = None,
) -> Tensor:  # fmt: skip
    """A rank's share of InfoNCE over all ranks (Radford et al. 2021). image, text (n, D), of length one.

    The mean over ranks is `clip.clip_loss` of the whole batch, and so is the mean of the gradients, which
    DistributedDataParallel takes. It knows no duplicates: equal captions count as negatives. RuntimeError
    without a process group, ValueError where ranks differ in n or dtype.
    """
    check_features(image_features, text_features)
    rank, _ = check_group(image_features, text_features, group)
    all_image, all_text = Gather.apply(image_features, group), Gather.apply(text_features, group)
    n = len(image_features)
    match = torch.arange(rank * n, rank * n + n, device=image_features.device)
    by_image = F.cross_entropy((logit_scale * image_features) @ all_text.T, match)  # own rows (n, W n)
    by_text = F.cross_entropy((logit_scale * text_features) @ all_image.T, match)  # own columns
    return (by_image + by_text) / 2


def shift(tensors: list[Tensor], group: dist.ProcessGroup | None = None) -> list[Tensor]:
    """Hand tensors to the rank on the right and return what comes from the left, in the same shapes."""
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    if world == 1:
        return tensors
    everyone = dist.group.WORLD if group is None else group
    right, left = (dist.get_global_rank(everyone, (rank + step) % world) for step in (1, -1))
    arrived = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in tensors]
    sends = [dist.P2POp(dist.isend, x.contiguous(), right, group) for x in tensors]
    takes = [dist.P2POp(dist.irecv, x, left, group) for x in arrived]
    for work in dist.batch_isend_irecv(sends + takes):
        work.wait()
    return arrived


class RingSigmoid(torch.autograd.Function):
    """Captions and their gradients go round the ring; after W hops the gradients are home."""

    @staticmethod
    def forward(ctx, image, text, t, b, image_ids, text_ids, chunk_size: int, learn: bool, group) -> Tensor:
        grads = [torch.zeros_like(x, dtype=t.dtype) for x in (image, text, t, b)] if learn else None
        total, world = torch.zeros_like(t), dist.get_world_size(group)
        for hop in range(world):
            total += add_rows(image, text, t, b, image_ids, text_ids, chunk_size, grads)
            if hop < world - 1:  # captions need not come home
                text, text_ids = shift([text, text_ids], group)
            if learn:
                (grads[1],) = shift([grads[1]], group)
        if learn:
            ctx.save_for_backward(*(grad.div_(len(image)) for grad in grads))
        return total / len(image)

    @staticmethod
    @once_differentiable
    def backward(ctx, up: Tensor) -> tuple:
        return *(up * grad for grad in ctx.saved_tensors), None, None, None, None, None


def ring_siglip_loss(
    image_features: Tensor, text_features: Tensor, logit_scale: Tensor | float, logit_bias: Tensor | float,
    chunk_size: int | None = None, *, image_ids: Tensor | None = None, text_ids: Tensor | None = None,
    group: dist.ProcessGroup | None = None,
) -> Tensor:  # fmt: skip
    """A rank's share of `siglip_loss` over all ranks (Zhai et al. 2023, sec. 3.3). image (n, D), text (m, D).

    The mean over ranks is the loss of the whole batch, and so is the mean of the gradients, which
    DistributedDataParallel takes; all ranks must weigh the loss alike. Ids, where given, are numbers across
    all ranks. RuntimeError without a process group, ValueError where ranks differ in n, m or dtype.
    """
    check_pairs(image_features, text_features, image_ids, text_ids)
    rank, _ = check_group(image_features, text_features, group)
    n = len(image_features)
    if image_ids is None:
        image_ids = text_ids = torch.arange(rank * n, rank * n + n, device=image_features.device)
    t, b = scalars(image_features, logit_scale, logit_bias)
    return RingSigmoid.apply(
        image_features, text_features, t, b, image_ids.long(), text_ids.long(),
        n if chunk_size is None else check_chunk(chunk_size), torch.is_grad_enabled(), group,
    )  # fmt: skip


def rank_share(
    kind: str, image_features: Tensor, text_features: Tensor, logit_scale: float, logit_bias: float,
    per_rank: int, chunk_size: int | None = None, group: dist.ProcessGroup | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """What one rank computes from its `per_rank` rows: its share of the loss, and gradients.

    kind: "gather" for InfoNCE, "ring" or "gather captions" for the sigmoid loss. For `mmscratch.kit.launch`.
    """
    if kind not in ("gather", "gather captions", "ring"):
        raise ValueError(f"expected kind to be gather, gather captions or ring, got {kind!r}")
    first = dist.get_rank(group) * per_rank
    inputs = [x[first : first + per_rank].clone() for x in (image_features, text_features)]
    inputs += scalars(image_features, logit_scale, logit_bias)
    image, text, t, b = (x.requires_grad_() for x in inputs)
    if kind == "gather":
        loss = gathered_clip_loss(image, text, t, group=group)
    elif kind == "gather captions":
        text_ids = torch.arange(dist.get_world_size(group) * per_rank, device=image.device)
        own = text_ids[first : first + per_rank]
        captions = Gather.apply(text, group)
        loss = siglip_loss(image, captions, t, b, chunk_size, image_ids=own, text_ids=text_ids)
    else:
        loss = ring_siglip_loss(image, text, t, b, chunk_size, group=group)
    loss.backward()
    bias = torch.zeros_like(b) if b.grad is None else b.grad  # InfoNCE has none
    return {"loss": loss.detach(), "image": image.grad, "text": text.grad, "scale": t.grad, "bias": bias}


class SigLIP(CLIP):
    """CLIP with a learned bias beside the scale (Zhai et al. 2023, sec. 3.2). Called as `clip.CLIP` is.

    images (B, C, H, W), ids (B, T) -> image features (B, E), text features (B, E), of length one, and the
    scale; the bias is `logit_bias`.
    """

    def __init__(
        self, visual: nn.Module, *, text: nn.Module, logit_scale: float = 10.0,
        logit_bias: float = -10.0, max_logit_scale: float = math.inf,
    ):  # fmt: skip
        super().__init__(visual, text=text, logit_scale=logit_scale, max_logit_scale=max_logit_scale)
        self.logit_bias = nn.Parameter(torch.tensor(float(logit_bias)))

    def probability(self, images: Tensor, ids: Tensor) -> Tensor:
        """Chance that picture i and text j belong together: (B, C, H, W), (M, T) -> (B, M)."""
        image, text, scale = self(images, ids)
        return torch.sigmoid(scale * image @ text.T + self.logit_bias)


FROM_TRANSFORMERS = {
    r"^vision_model\.embeddings\.position_embedding\.weight": "visual.vit.tokens.positions",
    r"^vision_model\.embeddings\.patch_embedding": "visual.vit.tokens.embed.linear",
    r"^vision_model\.post_layernorm": "visual.vit.norm",
    r"^vision_model\.encoder\.layers": "visual.vit.blocks",
    r"^vision_model\.head\.attention\.in_proj_": "visual.vit.pool.attention.cross.qkv.",
    r"^vision_model\.head\.attention\.out_proj": "visual.vit.pool.attention.cross.out",
    r"^vision_model\.head\.layernorm": "visual.vit.pool.attention.norm",
    r"^vision_model\.head\.": "visual.vit.pool.attention.",
    r"^text_model\.embeddings\.token_embedding": "text.transformer.embed",
    r"^text_model\.embeddings\.position_embedding\.weight": "text.transformer.positions.table",
    r"^text_model\.encoder\.layers": "text.transformer.blocks",
    r"^text_model\.final_layer_norm": "text.transformer.norm",
    r"^text_model\.head": "text.transformer.head",
    r"\.self_attn\.": ".attention.",
    r"\.out_proj\.": ".out.",
    r"\.layer_norm([12])\.": r".norm\1.",
}


def reshape_weights(state: dict[str, Tensor]) -> None:
    """Flatten patch kernels, split the pooling's queries off, give positions (N, D) a leading axis."""
    flatten_patches(state)
    split_queries(state)
    state["visual.vit.tokens.positions"] = state["visual.vit.tokens.positions"][None]


def from_transformers(model: nn.Module) -> SigLIP:
    """Our model with the shape and weights of transformers' `SiglipModel`, pooling head included.

    Texts must be padded to the full length, as the reference wants them: the last position is read.
    """
    check_type(model, "SiglipModel")
    seen, read = model.config.vision_config, model.config.text_config
    if not seen.vision_use_head:
        raise ValueError("expected vision_use_head True, got False: the tower then returns no features")
    visual = ImageTower(
        pair(seen.image_size), patch_size=pair(seen.patch_size), in_channels=seen.num_channels,
        embed_dim=None, pooling="map", pre_norm=False, patch_bias=True, **transformers_block(seen),
    )  # fmt: skip
    text = TextTower(
        read.vocab_size, embed_dim=read.projection_size, proj_bias=True, pooling="last", causal=False,
        max_positions=read.max_position_embeddings, **transformers_block(read),
    )  # fmt: skip
    ours = SigLIP(visual, text=text)
    ours.logit_scale = nn.Parameter(model.logit_scale.detach().clone())  # of shape (1,)
    ours.logit_bias = nn.Parameter(model.logit_bias.detach().clone())
    return load_mapped(model, ours, FROM_TRANSFORMERS, reshape_weights)
