"""CLIP.

Collected from notebooks/07_clip.ipynb by `make export`: edit the notebook, not this file.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmscratch.transformer import Transformer, check_type, load_mapped, pick
from mmscratch.vit import ConvStem, Size, VisionTransformer, conv_stem, flatten_patches, pair

__all__ = [
    "CLIP",
    "FROM_OPEN_CLIP",
    "FROM_TRANSFORMERS",
    "ImageTower",
    "TextTower",
    "check_features",
    "clip_loss",
    "ensemble",
    "from_open_clip",
    "from_transformers",
    "open_clip_block",
    "recall",
    "shape_tokens",
    "small_clip",
    "transformers_block",
]


class ImageTower(nn.Module):
    """A vision transformer whose head points into the shared space (Radford et al. 2021, sec. 2.4).

    images (B, C, H, W) -> features (B, E), not normalised. Options: the fields of `vit.ViTConfig`; CLIP's own
    recipe is the default: class token, a norm before the first block, no biases on patches or projection.
    """

    def __init__(
        self, image_size: Size, *, embed_dim: int | None, stem: nn.Module | None = None, **options: Any
    ):
        super().__init__()
        options = dict(pre_norm=True, patch_bias=False, norm_eps=1e-5) | options
        self.vit = VisionTransformer(image_size, stem=stem, **options)
        dim = self.vit.config.dim
        if embed_dim is not None:
            self.vit.head = nn.Linear(dim, embed_dim, bias=False)
            nn.init.normal_(self.vit.head.weight, std=dim**-0.5)
        self.embed_dim = embed_dim or dim

    def encode(self, images: Tensor, *, layer: int = -2) -> Tensor:
        """Patch tokens as block `layer` leaves them, without prefix tokens and final norm: (B, N, D).

        The last but one is what LLaVA reads (Liu et al. 2023, sec. 4.1).
        """
        blocks = self.vit.blocks
        if not -len(blocks) <= layer < len(blocks):
            raise ValueError(f"expected layer in {-len(blocks)}..{len(blocks) - 1}, got {layer}")
        x, rope = self.vit.pre_norm(self.vit.tokens(images)), self.vit.rope(images)
        for block in blocks[: layer % len(blocks) + 1]:
            x = block(x, rope)
        return x[:, self.vit.num_prefix :]

    def forward(self, images: Tensor) -> Tensor:
        return self.vit(images)


class TextTower(nn.Module):
    """A causal transformer read off at the end-of-text token (Radford et al. 2021, sec. 2.4).

    ids (B, T) -> features (B, E), not normalised. `eot_id`: its first place is read; None: the highest id of
    each row, as OpenAI's vocabulary ends with it. `pooling` "first" and "last" read a fixed place.
    Options: the fields of `transformer.TransformerConfig`, with GPT-2's recipe as default.
    """

    def __init__(
        self, vocab_size: int, *, embed_dim: int | None, max_positions: int, eot_id: int | None = None,
        pooling: str = "eot", proj_bias: bool = False, **options: Any,
    ):  # fmt: skip
        super().__init__()
        biases = dict(qkv_bias=True, out_bias=True, mlp_bias=True)
        options = dict(norm="layer", act="gelu", gated=False, position="learned") | biases | options
        self.eot_id, self.pooling = eot_id, pick("pooling", pooling, ("eot", "first", "last"))
        self.transformer = Transformer(vocab_size, max_positions=max_positions, **options)
        dim = self.transformer.config.dim
        self.transformer.head = nn.Identity() if embed_dim is None else nn.Linear(dim, embed_dim, proj_bias)
        if embed_dim is not None:
            nn.init.normal_(self.transformer.head.weight, std=dim**-0.5)
        self.embed_dim = embed_dim or dim

    def place(self, ids: Tensor) -> Tensor:
        """Where each text is read, (B, T) -> (B,)."""
        if self.pooling != "eot":
            return ids.new_full((len(ids),), 0 if self.pooling == "first" else ids.shape[1] - 1)
        if self.eot_id is None:
            return ids.argmax(dim=1)
        ends = ids == self.eot_id
        if not ends.any(dim=1).all():
            row = ends.any(dim=1).int().argmin().item()
            raise ValueError(f"expected end-of-text {self.eot_id} in every text, row {row} has none")
        return ends.int().argmax(dim=1)

    def forward(self, ids: Tensor) -> Tensor:
        if ids.ndim != 2 or ids.shape[1] < 1:
            raise ValueError(f"expected ids (B, T) with T >= 1, got {tuple(ids.shape)}")
        states = self.transformer.encode(ids)  # (B, T, D)
        rows = torch.arange(len(ids), device=ids.device)
        return self.transformer.head(states[rows, self.place(ids)])


class CLIP(nn.Module):
    """Two towers, one space, one learned temperature (Radford et al. 2021, fig. 3).

    images (B, C, H, W), ids (B, T) -> image features (B, E) and text features (B, E), of length one, and the
    scale of the logits, 1 / temperature. `visual` and `text`: any modules that turn their input into (B, E).
    The parameter `logit_scale` holds the logarithm of the scale, as in open_clip and transformers.
    """

    def __init__(
        self,
        visual: nn.Module,
        *,
        text: nn.Module,
        logit_scale: float = 1 / 0.07,
        max_logit_scale: float = 100.0,
    ):
        super().__init__()
        if not 0 < logit_scale <= max_logit_scale:
            raise ValueError(
                f"expected 0 < logit_scale <= max_logit_scale {max_logit_scale}, got {logit_scale}"
            )
        widths = [getattr(tower, "embed_dim", None) for tower in (visual, text)]
        if None not in widths and widths[0] != widths[1]:
            raise ValueError(f"expected towers of one embed_dim, got {widths[0]} and {widths[1]}")
        self.visual, self.text, self.max_logit_scale = visual, text, max_logit_scale
        self.logit_scale = nn.Parameter(torch.tensor(math.log(logit_scale)))

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, E), of length one."""
        return F.normalize(self.visual(images), dim=-1)

    def encode_text(self, ids: Tensor) -> Tensor:
        """(B, T) -> (B, E), of length one."""
        return F.normalize(self.text(ids), dim=-1)

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Bring the scale back to max_logit_scale: before each forward pass, and after the last step."""
        self.logit_scale.clamp_(max=math.log(self.max_logit_scale))

    def forward(self, images: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.encode_image(images), self.encode_text(ids), self.logit_scale.exp()


def check_features(image_features: Tensor, text_features: Tensor) -> None:
    """ValueError unless both are (B, E), of one shape, not empty, and every row has length one."""
    shapes = tuple(image_features.shape), tuple(text_features.shape)
    if image_features.ndim != 2 or shapes[0] != shapes[1]:
        raise ValueError(
            f"expected image and text features of one shape (B, E), got {shapes[0]} and {shapes[1]}"
        )
    if not len(image_features):
        raise ValueError(f"expected at least one pair, got features {shapes[0]}")
    with torch.no_grad():
        for what, features in (("image", image_features), ("text", text_features)):
            squares = torch.linalg.vecdot(features, features)
            if not ((squares - 1).abs() < 0.02).all():
                length = squares[(squares - 1).abs().argmax()].sqrt().item()
                raise ValueError(f"expected {what} features of length 1, got a row of length {length:.3g}")


def clip_loss(
    image_features: Tensor, text_features: Tensor, logit_scale: Tensor | float, *, same: Tensor | None = None
) -> Tensor:
    """Symmetric InfoNCE (Radford et al. 2021, fig. 3). image, text: (B, E), of length one. A scalar, in nats.

    Row i of one belongs to row i of the other, and every other row is a negative, except where `same` (B, B)
    is True: pairs that also match, such as equal captions, are left out.
    """
    check_features(image_features, text_features)
    logits = (logit_scale * image_features) @ text_features.T  # (B, B)
    if same is not None:
        if same.dtype != torch.bool or same.shape != logits.shape:
            raise ValueError(
                f"expected boolean same {tuple(logits.shape)}, got {same.dtype} {tuple(same.shape)}"
            )
        own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(same & ~own, -math.inf)
    match = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, match) + F.cross_entropy(logits.T, match)) / 2


FROM_OPEN_CLIP = {
    r"^visual\.class_embedding": "visual.vit.tokens.cls",
    r"^visual\.positional_embedding": "visual.vit.tokens.positions",
    r"^visual\.conv1": "visual.vit.tokens.embed.linear",
    r"^visual\.ln_pre": "visual.vit.pre_norm",
    r"^visual\.ln_post": "visual.vit.norm",
    r"^visual\.proj$": "visual.vit.head.weight",
    r"^visual\.transformer\.resblocks": "visual.vit.blocks",
    r"^(text\.)?token_embedding": "text.transformer.embed",
    r"^(text\.)?positional_embedding": "text.transformer.positions.table",
    r"^(text\.)?transformer\.resblocks": "text.transformer.blocks",
    r"^(text\.)?ln_final": "text.transformer.norm",
    r"^(text\.)?text_projection$": "text.transformer.head.weight",
    r"^(text\.)?text_projection\.": "text.transformer.head.",
    r"\.ln_([12])\.": r".norm\1.",
    r"\.attn\.in_proj_": ".attention.qkv.",
    r"\.attn\.out_proj": ".attention.out",
    r"\.mlp\.c_fc\.": ".mlp.fc1.",
    r"\.mlp\.c_proj\.": ".mlp.fc2.",
    r"\.ls_([12])\.gamma": r".scale\1",
}


def shape_tokens(state: dict[str, Tensor]) -> None:
    """Class token (D,) and positions (1 + N, D) get our leading axes; patch kernels are flattened."""
    flatten_patches(state)
    for name in ("cls", "positions"):
        table = state[f"visual.vit.tokens.{name}"]
        state[f"visual.vit.tokens.{name}"] = table.reshape(1, -1, table.shape[-1])


def open_clip_block(blocks: nn.Module) -> dict[str, Any]:
    """The options of a block that both of open_clip's towers share; ValueError for what ours does not do."""
    block = blocks[0]
    if type(block).__name__ != "ResidualAttentionBlock":
        raise ValueError(f"expected plain blocks, got {type(block).__name__}")
    act, scale = block.mlp[1], getattr(block.ls_1, "gamma", None)
    kind = {"QuickGELU": "quick_gelu", "GELU": "gelu"}.get(type(act).__name__)
    if kind is None or not isinstance(block.ln_1, nn.LayerNorm):
        raise ValueError(f"expected GELU or QuickGELU and LayerNorm, got {act} and {block.ln_1}")
    kind = "gelu_pytorch_tanh" if getattr(act, "approximate", "none") == "tanh" else kind
    return dict(
        dim=block.attn.embed_dim, num_heads=block.attn.num_heads, depth=len(blocks), act=kind,
        mlp_dim=block.mlp[0].out_features, norm_eps=block.ln_1.eps,
        layer_scale=None if scale is None else 1.0,
    )  # fmt: skip


def from_open_clip(model: nn.Module) -> CLIP:
    """Our model with the shape and weights of open_clip's `CLIP` or `CustomTextCLIP`.

    Both towers must be transformers. ValueError for what ours does not do: a logit bias (lesson 08), other
    towers, attentional pooling, dropped patches, blocks with extra norms.
    """
    check_type(model, "CLIP", "CustomTextCLIP")
    visual, text = model.visual, getattr(model, "text", model)
    kinds = type(visual).__name__, type(text).__name__
    if kinds[0] != "VisionTransformer" or kinds[1] not in ("CLIP", "TextTransformer"):
        raise ValueError(f"expected towers VisionTransformer and TextTransformer, got {kinds[0]}, {kinds[1]}")
    if model.logit_bias is not None or getattr(text, "cls_emb", None) is not None:
        raise ValueError("expected no logit_bias and no embed_cls")
    if visual.attn_pool is not None or not isinstance(visual.patch_dropout, nn.Identity):
        raise ValueError("expected no attentional pooling and no patch dropout")
    pooling = {"tok": "cls", "avg": "mean"}.get(visual.pool_type)
    if pooling is None or (pooling == "mean" and visual.final_ln_after_pool):
        raise ValueError(f"expected pool_type tok, or avg after the norm, got {visual.pool_type}")
    reading = text.text_pool_type if text is model else text.pool_type
    if reading not in ("argmax", "eos", "first", "last") or getattr(text, "use_pad_mask", False):
        raise ValueError(f"expected pool_type argmax, eos, first or last and no pad mask, got {reading}")
    eot_id = (text.text_eos_id if text is model else text.eos_id) if reading == "eos" else None
    project, table = text.text_projection, text.positional_embedding
    wide = isinstance(project, nn.Linear)
    width = None if project is None else project.weight.shape[0] if wide else project.shape[1]
    towers = (
        ImageTower(
            visual.image_size, patch_size=visual.patch_size, embed_dim=visual.proj.shape[1],
            pre_norm=not isinstance(visual.ln_pre, nn.Identity), pooling=pooling, class_token=True,
            position="learned" if visual.positional_embedding.requires_grad else "sincos",
            **open_clip_block(visual.transformer.resblocks),
        ),
        TextTower(
            text.vocab_size, embed_dim=width, max_positions=len(table), eot_id=eot_id,
            pooling="eot" if reading in ("argmax", "eos") else reading, causal=text.attn_mask is not None,
            proj_bias=wide and project.bias is not None, **open_clip_block(text.transformer.resblocks),
        ),
    )  # fmt: skip
    ours = CLIP(towers[0], text=towers[1])
    ours.logit_scale = nn.Parameter(model.logit_scale.detach().clone())  # of shape () or (1,)

    def edit(state: dict[str, Tensor]) -> None:
        shape_tokens(state)
        names = ["visual.vit.head.weight"]
        names += [] if wide or project is None else ["text.transformer.head.weight"]
        for name in names:  # they multiply from the right
            state[name] = state[name].T

    return load_mapped(model, ours, FROM_OPEN_CLIP, edit)


FROM_TRANSFORMERS = {
    r"^vision_model\.embeddings\.class_embedding": "visual.vit.tokens.cls",
    r"^vision_model\.embeddings\.position_embedding\.weight": "visual.vit.tokens.positions",
    r"^vision_model\.embeddings\.patch_embedding": "visual.vit.tokens.embed.linear",
    r"^vision_model\.pre_layrnorm": "visual.vit.pre_norm",
    r"^vision_model\.post_layernorm": "visual.vit.norm",
    r"^vision_model\.encoder\.layers": "visual.vit.blocks",
    r"^visual_projection": "visual.vit.head",
    r"^text_model\.embeddings\.token_embedding": "text.transformer.embed",
    r"^text_model\.embeddings\.position_embedding\.weight": "text.transformer.positions.table",
    r"^text_model\.encoder\.layers": "text.transformer.blocks",
    r"^text_model\.final_layer_norm": "text.transformer.norm",
    r"^text_projection": "text.transformer.head",
    r"\.self_attn\.": ".attention.",
    r"\.out_proj\.": ".out.",
    r"\.layer_norm([12])\.": r".norm\1.",
}


def transformers_block(c: Any) -> dict[str, Any]:
    """The options of a block in a CLIP configuration of transformers, of either tower."""
    return dict(
        dim=c.hidden_size, num_heads=c.num_attention_heads, depth=c.num_hidden_layers,
        mlp_dim=c.intermediate_size, act=c.hidden_act, norm_eps=c.layer_norm_eps,
        attention_dropout=c.attention_dropout,
    )  # fmt: skip


def from_transformers(model: nn.Module) -> CLIP:
    """Our model with the shape and weights of transformers' `CLIPModel`.

    Ours takes no attention mask: in a causal model, padding after the end-of-text token changes nothing.
    """
    check_type(model, "CLIPModel")
    c, seen, read = model.config, model.config.vision_config, model.config.text_config
    visual = ImageTower(
        pair(seen.image_size), patch_size=pair(seen.patch_size), embed_dim=c.projection_dim,
        in_channels=seen.num_channels, **transformers_block(seen),
    )  # fmt: skip
    text = TextTower(
        read.vocab_size, embed_dim=c.projection_dim, max_positions=read.max_position_embeddings,
        eot_id=None if read.eos_token_id == 2 else read.eos_token_id,  # 2: old configurations, wrong in them
        **transformers_block(read),
    )  # fmt: skip
    return load_mapped(model, CLIP(visual, text=text), FROM_TRANSFORMERS, shape_tokens)


def small_clip(vocab_size: int, *, eot_id: int, embed_dim: int = 64, max_positions: int = 24) -> CLIP:
    """The model this book trains: pictures of 32 pixels, 16 patch tokens 128 wide, two blocks in each tower.

    A convolutional stem (Xiao et al. 2021) and the mean of the patches for the picture, as it learns sooner.
    """
    shared = dict(embed_dim=embed_dim, dim=128, depth=2, num_heads=4)
    full = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]  # before any stride
    stem = ConvStem(nn.Sequential(*full, *conv_stem([32, 64, 128], dim=128, in_channels=16).layers))
    visual = ImageTower(32, patch_size=8, stem=stem, pooling="mean", **shared)
    text = TextTower(vocab_size, max_positions=max_positions, eot_id=eot_id, **shared)
    return CLIP(visual, text=text)


def recall(similarity: Tensor, k: int, *, match: Tensor | None = None) -> float:
    """Share of rows whose right column is among their k best, in [0, 1]. similarity (N, M).

    Row i is right at column i, or wherever `match` (N, M) is True. Ties and NaN count against: a model that
    finds everything equally similar, or has diverged, finds nothing.
    """
    N, M = similarity.shape
    if match is None and N != M or not 1 <= k <= M:
        raise ValueError(f"expected a square similarity or match, and 1 <= k <= {M}, got {(N, M)} and {k}")
    match = torch.eye(N, dtype=torch.bool, device=similarity.device) if match is None else match
    if match.dtype != torch.bool or match.shape != (N, M):
        raise ValueError(f"expected boolean match {(N, M)}, got {match.dtype} {tuple(match.shape)}")
    best = similarity.masked_fill(~match, -math.inf).amax(dim=1, keepdim=True)  # (N, 1)
    better = (~(similarity < best) & ~match).sum(dim=1)
    return (better < k).float().mean().item()


def ensemble(features: Tensor) -> Tensor:
    """One class vector from the features of several prompts (Radford et al. 2021, sec. 3.1.4).

    (K, M, E), of length one -> the direction of their mean, (K, E), of length one.
    """
    if features.ndim != 3 or not features.shape[1]:
        raise ValueError(f"expected features (K, M, E) of M >= 1 prompts, got {tuple(features.shape)}")
    return F.normalize(features.mean(dim=1), dim=-1)
