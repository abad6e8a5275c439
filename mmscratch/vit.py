"""Vision transformer.

Collected from notebooks/04_vision_transformer.ipynb by `make export`: edit the notebook, not this file.
"""

import copy
import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmscratch.transformer import (
    ACTIVATIONS,
    Block,
    BlockConfig,
    CrossAttention,
    FeedForward,
    check_type,
    head_width,
    load_mapped,
    make_norm,
    pick,
    split_queries,
)

__all__ = [
    "AttentionPooling",
    "ConvStem",
    "FROM_MAE",
    "FROM_SIGLIP",
    "FROM_TORCHVISION",
    "FROM_TRANSFORMERS",
    "Head",
    "IN_BLOCK",
    "MaskedAutoencoder",
    "PatchEmbedding",
    "Pooling",
    "Size",
    "Tokens",
    "ViTConfig",
    "VisionTransformer",
    "conv_stem",
    "count_macs",
    "count_parameters",
    "flatten_patches",
    "from_torchvision",
    "from_transformers",
    "initialise",
    "interpolate_positions",
    "mae_from_transformers",
    "pair",
    "patch_grid",
    "patchify",
    "pooling_from_transformers",
    "position_table",
    "projected",
    "random_mask",
    "rope_2d",
    "shared_options",
    "sincos_2d",
    "unpatchify",
]

Size = int | tuple[int, int]


def pair(size: Size) -> tuple[int, int]:
    """(height, width) from one number or two; ValueError unless both are positive whole numbers."""
    both = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if len(both) != 2 or not all(isinstance(n, int) and n > 0 for n in both):
        raise ValueError(f"expected a positive whole number or (height, width), got {size!r}")
    return both


def patch_grid(height: int, width: int, patch_size: Size) -> tuple[int, int]:
    """Rows and columns of patches in a picture; ValueError where they do not fit evenly."""
    p, q = pair(patch_size)
    if height % p or height < p:
        raise ValueError(f"image height {height} is not a multiple of patch_size {p}")
    if width % q or width < q:
        raise ValueError(f"image width {width} is not a multiple of patch_size {q}")
    return height // p, width // q


def patchify(images: Tensor, patch_size: Size) -> Tensor:
    """Cut pictures into patches, row by row (Dosovitskiy et al. 2021, sec. 3.1).

    images (B, C, H, W) -> (B, N, C*P*P), each patch flattened channel first, as a convolution kernel is.
    """
    if images.ndim != 4:
        raise ValueError(f"expected images of shape (B, C, H, W), got {tuple(images.shape)}")
    B, C, H, W = images.shape
    (rows, cols), (p, q) = patch_grid(H, W, patch_size), pair(patch_size)
    x = images.reshape(B, C, rows, p, cols, q)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(B, rows * cols, C * p * q)


def unpatchify(patches: Tensor, patch_size: Size, grid: tuple[int, int]) -> Tensor:
    """The inverse of `patchify`: (B, N, C*P*P) and the grid (rows, cols) -> (B, C, H, W)."""
    (rows, cols), (p, q) = grid, pair(patch_size)
    if patches.ndim != 3 or patches.shape[1] != rows * cols or patches.shape[2] % (p * q):
        raise ValueError(f"expected (B, {rows * cols}, C*{p}*{q}) patches, got {tuple(patches.shape)}")
    x = patches.reshape(len(patches), rows, cols, -1, p, q)  # (B, rows, cols, C, P, P)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(len(patches), -1, rows * p, cols * q)


class PatchEmbedding(nn.Module):
    """One linear map shared by all patches: x_p E + b (Dosovitskiy et al. 2021, eq. 1).

    images (B, C, H, W) -> (B, N, D).
    """

    def __init__(self, patch_size: Size, *, dim: int, in_channels: int = 3, bias: bool = True):
        super().__init__()
        self.patch_size = pair(patch_size)
        self.in_channels = in_channels
        self.linear = nn.Linear(in_channels * self.patch_size[0] * self.patch_size[1], dim, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(patchify(images, self.patch_size))


def sincos_2d(grid: tuple[int, int], dim: int, theta: float = 10_000.0) -> Tensor:
    """Fixed 2-D sine-cosine positions (He et al. 2022, sec. A). (rows, cols) -> (rows*cols, D).

    The first half of the channels encodes the column, the second half the row.
    """
    if dim % 4:
        raise ValueError(f"2-D sin-cos positions need dim to be a multiple of 4, got {dim}")
    omega = theta ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    rows, cols = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    angles = [axis.reshape(-1, 1) * omega for axis in (cols, rows)]  # each (N, D/4)
    return torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], dim=1).float()


def interpolate_positions(
    table: Tensor, old: tuple[int, int], new: tuple[int, int], *, antialias: bool = False
) -> Tensor:
    """Resize a table of patch positions by bicubic interpolation: (1, rows*cols, D) on `old` -> on `new`.

    The grid is the picture, the channels are its colours (Dosovitskiy et al. 2021, sec. 3.2).
    """
    if table.ndim != 3 or table.shape[:2] != (1, math.prod(old)):
        raise ValueError(f"expected a table (1, {math.prod(old)}, D), got {tuple(table.shape)}")
    if old == new:
        return table
    picture = table.reshape(1, *old, -1).permute(0, 3, 1, 2)  # (1, D, rows, cols)
    picture = F.interpolate(picture, size=new, mode="bicubic", align_corners=False, antialias=antialias)
    return picture.flatten(2).transpose(1, 2)


def rope_2d(grid: tuple[int, int], head_dim: int, *, prefix: int = 0, theta: float = 100.0) -> Tensor:
    """Cosines and sines for axial rotary positions: (2, prefix + N, d).

    Half of the rotated pairs turn with the row, half with the column (Wang et al. 2024, sec. 2.1).
    Prefix tokens (CLS, registers) have no place in the picture: angle 0.
    """
    if head_dim % 4:
        raise ValueError(f"axial RoPE needs head_dim to be a multiple of 4, got {head_dim}")
    omega = theta ** -(torch.arange(head_dim // 4) / (head_dim // 4))
    rows, cols = torch.meshgrid(*(torch.arange(float(n)) for n in grid), indexing="ij")
    angles = torch.cat([axis.reshape(-1, 1) * omega for axis in (rows, cols)], dim=1)  # (N, d/2)
    angles = F.pad(angles.repeat(1, 2), (0, 0, prefix, 0))  # (prefix + N, d)
    return torch.stack([angles.cos(), angles.sin()])


@dataclass(kw_only=True)
class ViTConfig(BlockConfig):
    """Every knob of a vision transformer, with the defaults of Dosovitskiy et al. (2021)."""

    image_size: Size
    patch_size: Size
    depth: int
    num_classes: int = 0  # 0: no head, the model returns pooled features
    in_channels: int = 3
    position: str = "learned"  # none, learned, sincos, rope
    pooling: str = "cls"  # cls, mean, map
    class_token: bool | None = None  # default: only where the pooling reads it
    num_registers: int = 0
    patch_bias: bool = True
    norm_eps: float = 1e-6
    pre_norm: bool = False  # a norm before the first block, as in CLIP
    representation_size: int | None = None  # width of a hidden layer before the head
    representation_act: str = "tanh"
    antialias: bool = False  # when positions are interpolated
    rope_theta: float = 100.0

    def __post_init__(self):
        pick("position", self.position, ("none", "learned", "sincos", "rope"))
        pick("pooling", self.pooling, ("cls", "mean", "map"))
        if self.class_token is None:
            self.class_token = self.pooling == "cls"
        if self.pooling == "cls" and not self.class_token:
            raise ValueError("pooling 'cls' reads the class token, but class_token is False")
        if self.cross:
            raise ValueError("a vision transformer reads no context, got cross=True")


def position_table(kind: str, grid: tuple[int, int], dim: int, *, class_token: bool) -> nn.Parameter | None:
    """Positions to add to [CLS, patches], (1, 1 + N, D): learned, fixed "sincos" (CLS at zero), or None."""
    pick("position", kind, ("none", "learned", "sincos", "rope"))
    if kind == "learned":
        return nn.Parameter(torch.randn(1, math.prod(grid) + class_token, dim) * 0.02)
    if kind == "sincos":
        table = F.pad(sincos_2d(grid, dim), (0, 0, int(class_token), 0))
        return nn.Parameter(table[None], requires_grad=False)
    return None


class Tokens(nn.Module):
    """Picture to sequence: [CLS, registers, patches], with positions on CLS and patches.

    images (B, C, H, W) -> (B, P + N, D) with P prefix tokens. Learned and sin-cos tables are interpolated
    when the picture has another size than `image_size`.
    """

    def __init__(self, c: ViTConfig, stem: nn.Module | None = None):
        super().__init__()
        self.in_channels, self.patch_size, self.antialias = c.in_channels, pair(c.patch_size), c.antialias
        self.grid = patch_grid(*pair(c.image_size), c.patch_size)
        self.embed = stem or PatchEmbedding(
            c.patch_size, dim=c.dim, in_channels=c.in_channels, bias=c.patch_bias
        )
        self.cls = nn.Parameter(torch.zeros(1, 1, c.dim)) if c.class_token else None
        self.registers = nn.Parameter(torch.zeros(1, c.num_registers, c.dim)) if c.num_registers else None
        self.positions = position_table(c.position, self.grid, c.dim, class_token=bool(c.class_token))
        self.dropout = nn.Dropout(c.dropout)

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise ValueError(f"expected images (B, {self.in_channels}, H, W), got {tuple(images.shape)}")
        grid = patch_grid(images.shape[2], images.shape[3], self.patch_size)
        x = self.embed(images)  # (B, N, D)
        if x.shape[1] != math.prod(grid):
            raise ValueError(f"expected {math.prod(grid)} tokens from the stem, got {x.shape[1]}")
        cls, split = self.cls, int(self.cls is not None)
        if self.positions is not None:
            x = x + interpolate_positions(
                self.positions[:, split:], self.grid, grid, antialias=self.antialias
            )
            cls = None if cls is None else cls + self.positions[:, :1]
        prefix = [t.expand(len(x), -1, -1) for t in (cls, self.registers) if t is not None]
        return self.dropout(torch.cat([*prefix, x], dim=1))  # (B, P + N, D)


class AttentionPooling(nn.Module):
    """One learned query, the probe, reads the whole sequence: (B, N, D) -> (B, D).

    The MAP head of Zhai et al. (2022, sec. 3), used by SigLIP.
    """

    def __init__(self, dim: int, *, num_heads: int, hidden: int, act: str = "gelu", norm_eps: float = 1e-6):
        super().__init__()
        self.probe = nn.Parameter(torch.randn(1, 1, dim) * dim**-0.5)
        self.cross = CrossAttention(dim, num_heads=num_heads)
        self.norm = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = FeedForward(dim, hidden=hidden, act=act)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cross(self.probe.expand(len(x), -1, -1), x)[:, 0]  # (B, D)
        return x + self.mlp(self.norm(x))


class Pooling(nn.Module):
    """Sequence to one vector by class token, mean of patches, or attention: (B, P + N, D) -> (B, D)."""

    def __init__(self, c: ViTConfig, num_prefix: int):
        super().__init__()
        self.kind, self.num_prefix = c.pooling, num_prefix
        if self.kind == "map":
            self.attention = AttentionPooling(
                c.dim, num_heads=c.num_heads, hidden=c.mlp_dim or 4 * c.dim, act=c.act, norm_eps=c.norm_eps
            )

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "cls":
            return x[:, 0]
        patches = x[:, self.num_prefix :]
        return patches.mean(dim=1) if self.kind == "mean" else self.attention(patches)


class Head(nn.Module):
    """Pooled features to logits, through a hidden layer if there is one: (B, D) -> (B, num_classes)."""

    def __init__(self, c: ViTConfig):
        super().__init__()
        width = c.representation_size or c.dim
        self.hidden = nn.Linear(c.dim, width) if c.representation_size else None
        self.act = ACTIVATIONS[pick("representation_act", c.representation_act, ACTIVATIONS)]
        self.linear = nn.Linear(width, c.num_classes) if c.num_classes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x if self.hidden is None else self.act(self.hidden(x)))


def initialise(model: nn.Module) -> None:
    """Xavier weights and zero biases; the extra tokens start small and distinct."""
    for name, p in model.named_parameters():
        if name.rsplit(".", 1)[-1] in ("cls", "registers", "mask_token"):
            nn.init.normal_(p, std=0.02)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class VisionTransformer(nn.Module):
    """Vision transformer (Dosovitskiy et al. 2021), with the parts that later models changed.

    images (B, C, H, W) -> logits (B, num_classes), or pooled features (B, D) where num_classes is 0.
    Options: the fields of `ViTConfig`. `stem` replaces the linear patch embedding.
    """

    def __init__(self, image_size: Size, *, stem: nn.Module | None = None, **options):
        super().__init__()
        c = self.config = ViTConfig(image_size=image_size, **options)
        self.num_prefix = int(c.class_token) + c.num_registers
        self.head_dim = head_width(c.dim, c.num_heads, c.head_dim)
        if c.position == "rope" and self.head_dim % 4:
            raise ValueError(f"axial RoPE needs head_dim to be a multiple of 4, got {self.head_dim}")
        self.tokens = Tokens(c, stem)
        self.pre_norm = make_norm(c.norm, c.dim, c.norm_eps) if c.pre_norm else nn.Identity()
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.depth))
        self.norm = make_norm(c.norm, c.dim, c.norm_eps)
        self.pool = Pooling(c, self.num_prefix)
        self.head = Head(c)
        initialise(self)

    def rope(self, images: Tensor) -> Tensor | None:
        """Rotary angles for this picture size, or None: (2, P + N, d)."""
        if self.config.position != "rope":
            return None
        grid = patch_grid(images.shape[2], images.shape[3], self.config.patch_size)
        return rope_2d(grid, self.head_dim, prefix=self.num_prefix, theta=self.config.rope_theta).to(images)

    def encode(self, x: Tensor, rope: Tensor | None = None) -> Tensor:
        """Blocks and final norm over a token sequence: (B, N, D) -> (B, N, D)."""
        x = self.pre_norm(x)
        for block in self.blocks:
            x = block(x, rope)
        return self.norm(x)

    def forward_features(self, images: Tensor) -> Tensor:
        """All tokens after the final norm, prefix tokens first: (B, P + N, D)."""
        return self.encode(self.tokens(images), self.rope(images))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.pool(self.forward_features(images)))


def projected(c: ViTConfig) -> tuple[int, int]:
    """Width of all heads together, and of queries, keys and values in one projection."""
    width = head_width(c.dim, c.num_heads, c.head_dim)
    return c.num_heads * width, (c.num_heads + 2 * (c.num_kv_heads or c.num_heads)) * width


def count_parameters(c: ViTConfig) -> int:
    """Learned numbers in a vision transformer, by arithmetic (fixed tables and stems not counted)."""
    N = math.prod(patch_grid(*pair(c.image_size), c.patch_size))
    D, H, (inner, fused) = c.dim, c.mlp_dim or 4 * c.dim, projected(c)
    norm = D * (1 if c.norm == "rms" else 2)
    attention = (D + c.qkv_bias) * fused + (inner + c.out_bias) * D
    mlp = (D + c.mlp_bias) * H * (1 + c.gated) + (H + c.mlp_bias) * D
    block = 2 * norm + attention + mlp + 2 * D * (c.layer_scale is not None)
    total = (c.in_channels * math.prod(pair(c.patch_size)) + c.patch_bias) * D
    total += D * (bool(c.class_token) + c.num_registers)
    total += D * (N + bool(c.class_token)) * (c.position == "learned")
    total += c.depth * block + norm * (1 + c.pre_norm)
    if c.pooling == "map":
        total += D + 4 * (D * D + D) + 2 * D + (2 * D * H + H + D)  # its feed-forward is never gated
    width = c.representation_size or D
    total += (D + 1) * width * bool(c.representation_size) + (width + 1) * c.num_classes
    return total


def count_macs(c: ViTConfig, image_size: Size | None = None) -> dict[str, int]:
    """Multiply-adds for one picture, by part: 12 N D^2 + 2 N^2 D per block for the usual shape."""
    N = math.prod(patch_grid(*pair(image_size or c.image_size), c.patch_size))
    T = N + bool(c.class_token) + c.num_registers
    D, H, (inner, fused) = c.dim, c.mlp_dim or 4 * c.dim, projected(c)
    pool = 2 * D * D * (N + 1) + 2 * N * D + 2 * D * H if c.pooling == "map" else 0
    return {
        "patches": N * c.in_channels * math.prod(pair(c.patch_size)) * D,
        "projections": c.depth * T * D * (fused + inner),
        "attention": c.depth * 2 * T * T * inner,
        "mlp": c.depth * T * (3 if c.gated else 2) * D * H,
        "head": pool + D * (c.representation_size or 0) + (c.representation_size or D) * c.num_classes,
    }


def flatten_patches(state: dict[str, Tensor]) -> None:
    """A convolution of kernel = stride = P is a linear map of flattened patches."""
    for name in [name for name in state if name.endswith("tokens.embed.linear.weight")]:
        state[name] = state[name].flatten(1)


FROM_TORCHVISION = {
    r"^class_token": "tokens.cls",
    r"^encoder\.pos_embedding": "tokens.positions",
    r"^conv_proj\.(weight|bias)$": r"tokens.embed.linear.\1",
    r"^conv_proj\.": "tokens.embed.layers.",
    r"^encoder\.layers\.encoder_layer_": "blocks.",
    r"\.ln_([12])\.": r".norm\1.",
    r"\.self_attention\.in_proj_": ".attention.qkv.",
    r"\.self_attention\.out_proj": ".attention.out",
    r"\.mlp\.0\.": ".mlp.fc1.",
    r"\.mlp\.3\.": ".mlp.fc2.",
    r"^encoder\.ln\.": "norm.",
    r"^heads\.pre_logits": "head.hidden",
    r"^heads\.head": "head.linear",
}


def from_torchvision(model: nn.Module) -> VisionTransformer:
    """Our model with the shape and weights of any `torchvision.models.VisionTransformer`."""
    check_type(model, "VisionTransformer")
    if not hasattr(model, "conv_proj"):
        raise TypeError("expected a VisionTransformer of torchvision, got one without conv_proj")
    if type(model.encoder.ln) is not nn.LayerNorm:
        raise ValueError(f"expected norm_layer LayerNorm, got {type(model.encoder.ln).__name__}")
    head = model.heads[-1] if isinstance(model.heads, nn.Sequential) else model.heads
    hidden = getattr(model.heads, "pre_logits", None)
    ours = VisionTransformer(
        model.image_size,
        patch_size=model.patch_size,
        dim=model.hidden_dim,
        depth=len(model.encoder.layers),
        num_heads=model.encoder.layers[0].num_heads,
        mlp_dim=model.mlp_dim,
        norm_eps=model.encoder.ln.eps,
        num_classes=head.out_features if isinstance(head, nn.Linear) else 0,
        representation_size=None if hidden is None else hidden.out_features,
        dropout=model.dropout,
        attention_dropout=model.attention_dropout,
        stem=None if isinstance(model.conv_proj, nn.Conv2d) else ConvStem(copy.deepcopy(model.conv_proj)),
    )
    return load_mapped(model, ours, FROM_TORCHVISION, flatten_patches)


IN_BLOCK = {
    r"\.layernorm_before\.": ".norm1.",
    r"\.layernorm_after\.": ".norm2.",
    r"\.attention\.o_proj": ".attention.out",
    r"\.layer_scale([12])\.lambda1": r".scale\1",
    r"\.down_proj\.": ".fc2.",
}
FROM_TRANSFORMERS = {
    r".*\bmask_token$": "",  # only pretraining uses it
    r"^(vit|encoder)\.": "",
    r"^embeddings\.cls_token": "tokens.cls",
    r"^embeddings\.register_tokens": "tokens.registers",
    r"^embeddings\.position_embeddings": "tokens.positions",
    r"^embeddings\.patch_embeddings\.projection": "tokens.embed.linear",
    r"^layers?\.": "blocks.",
    r"^layernorm\.": "norm.",
    r"^pooler\.dense": "head.hidden",
    r"^classifier": "head.linear",
    **IN_BLOCK,
}


def shared_options(c) -> dict:
    """The options of `VisionTransformer` that ViT, DINOv2 and MAE configurations of transformers share."""
    return {
        "patch_size": c.patch_size if isinstance(c.patch_size, int) else tuple(c.patch_size),
        "dim": c.hidden_size,
        "depth": c.num_hidden_layers,
        "num_heads": c.num_attention_heads,
        "head_dim": getattr(c, "head_dim", c.hidden_size // c.num_attention_heads),
        "in_channels": c.num_channels,
        "qkv_bias": c.qkv_bias,
        "act": c.hidden_act,
        "norm_eps": c.layer_norm_eps,
        "dropout": c.hidden_dropout_prob,
        "attention_dropout": c.attention_probs_dropout_prob,
    }


def from_transformers(model: nn.Module) -> VisionTransformer:
    """Our model with the shape and weights of a transformers model.

    ViTModel, ViTForImageClassification, Dinov2Model or Dinov2WithRegistersModel.
    """
    kind = check_type(
        model, "ViTForImageClassification", "ViTModel", "Dinov2WithRegistersModel", "Dinov2Model"
    )
    c, options = model.config, shared_options(model.config)
    if kind.startswith("Dinov2"):
        rows, cols = pair(c.image_size)
        if rows != cols or c.drop_path_rate:
            raise ValueError(
                f"expected a square image_size and drop_path_rate 0, got {rows}x{cols} and {c.drop_path_rate}"
            )
        options |= {"layer_scale": c.layerscale_value, "gated": c.use_swiglu_ffn}
        options |= {"mlp_dim": int(c.hidden_size * c.mlp_ratio)}
        options |= {"num_registers": getattr(c, "num_register_tokens", 0), "antialias": "Registers" in kind}
        if c.use_swiglu_ffn:  # two thirds of the width, rounded up to a multiple of 8
            options |= {"mlp_dim": (int(options["mlp_dim"] * 2 / 3) + 7) // 8 * 8, "act": "silu"}
    else:
        options["mlp_dim"] = c.intermediate_size
        if kind == "ViTForImageClassification":
            options["num_classes"] = c.num_labels
        elif model.pooler is not None:
            options |= {"representation_size": c.pooler_output_size, "representation_act": c.pooler_act}
    ours = VisionTransformer(pair(c.image_size), **options)
    return load_mapped(model, ours, FROM_TRANSFORMERS, flatten_patches)


FROM_SIGLIP = {
    r"^attention\.in_proj_": "cross.qkv.",
    r"^attention\.out_proj": "cross.out",
    r"^layernorm": "norm",
}


def pooling_from_transformers(head: nn.Module) -> AttentionPooling:
    """Our pooling with the weights of transformers' `SiglipMultiheadAttentionPoolingHead`."""
    check_type(head, "SiglipMultiheadAttentionPoolingHead")
    c = head.mlp.config
    ours = AttentionPooling(
        c.hidden_size, num_heads=c.num_attention_heads, hidden=c.intermediate_size, act=c.hidden_act,
        norm_eps=c.layer_norm_eps,
    )  # fmt: skip
    return load_mapped(head, ours, FROM_SIGLIP, split_queries)


class ConvStem(nn.Module):
    """Any stack of convolutions in place of the one linear map: (B, C, H, W) -> (B, N, D).

    `layers` must shrink the picture by the model's patch_size (Xiao et al. 2021).
    """

    def __init__(self, layers: nn.Module):
        super().__init__()
        self.layers = layers

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).flatten(2).transpose(1, 2)


def conv_stem(channels: list[int], *, dim: int, in_channels: int = 3) -> ConvStem:
    """3x3 convolutions of stride 2, batch norm, ReLU; then 1x1 to `dim`. patch_size 2 ** len(channels)."""
    layers: list[nn.Module] = []
    for width in channels:
        layers += [nn.Conv2d(in_channels, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        in_channels = width
    return ConvStem(nn.Sequential(*layers, nn.Conv2d(in_channels, dim, 1)))


def random_mask(noise: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """Hide the share `ratio` of patches with the largest noise (He et al. 2022, sec. 3).

    noise (B, N) -> indices of the n patches kept (B, n), in the order of their noise, and mask (B, N),
    1 where hidden.
    """
    if noise.ndim != 2:
        raise ValueError(f"expected noise of shape (B, N), got {tuple(noise.shape)}")
    keep = noise.argsort(dim=1)[:, : int(noise.shape[1] * (1 - ratio))]
    return keep, torch.ones_like(noise).scatter(1, keep, 0.0)


class MaskedAutoencoder(nn.Module):
    """Hide most patches, encode the rest, predict the hidden pixels (He et al. 2022, sec. 3).

    images (B, C, H, W) -> loss (scalar), prediction (B, N, C*P*P), mask (B, N), 1 where hidden.
    `normalise` predicts each patch minus its own mean, over its own standard deviation.
    """

    def __init__(
        self, encoder: VisionTransformer, *, dim: int, depth: int, num_heads: int, mlp_dim: int | None = None,
        mask_ratio: float = 0.75, normalise: bool = True,
    ):  # fmt: skip
        super().__init__()
        c = encoder.config
        if not 0 < mask_ratio < 1:
            raise ValueError(f"mask_ratio must lie between 0 and 1, got {mask_ratio}")
        if c.position not in ("learned", "sincos") or encoder.num_prefix != 1 or not c.class_token:
            raise ValueError("expected an encoder with a class token, no registers and added positions")
        self.encoder, self.mask_ratio, self.normalise = encoder, mask_ratio, normalise
        self.embed = nn.Linear(c.dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = position_table("sincos", encoder.tokens.grid, dim, class_token=True)
        own = replace(c, dim=dim, num_heads=num_heads, head_dim=None, num_kv_heads=None, mlp_dim=mlp_dim)
        self.blocks = nn.Sequential(*(Block(own) for _ in range(depth)))
        self.norm = make_norm(c.norm, dim, c.norm_eps)
        self.predict = nn.Linear(dim, c.in_channels * math.prod(pair(c.patch_size)))
        initialise(self)

    def forward(self, images: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        tokens = self.encoder.tokens(images)  # (B, 1 + N, D)
        B, N = len(tokens), tokens.shape[1] - 1
        if N + 1 != self.positions.shape[1]:
            raise ValueError(f"expected {self.positions.shape[1] - 1} patches, as in image_size, got {N}")
        noise = torch.rand(B, N, device=images.device) if noise is None else noise
        if noise.shape != (B, N):
            raise ValueError(f"expected noise {(B, N)}, got {tuple(noise.shape)}")
        keep, mask = random_mask(noise, self.mask_ratio)
        index = F.pad(keep + 1, (1, 0))[..., None]  # CLS stays, patches move up by one
        h = self.embed(self.encoder.encode(tokens.gather(1, index.expand(-1, -1, tokens.shape[2]))))
        full = self.mask_token.expand(B, N + 1, -1).scatter(1, index.expand(-1, -1, h.shape[2]), h)
        full = self.norm(self.blocks(full + self.positions))  # (B, 1 + N, D)
        prediction = self.predict(full)[:, 1:]  # (B, N, C*P*P)

        target = patchify(images, self.encoder.config.patch_size)
        if self.normalise:
            target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        error = ((prediction - target) ** 2).mean(-1)  # (B, N)
        return (error * mask).sum() / mask.sum(), prediction, mask


FROM_MAE = {
    r"^vit\.embeddings\.cls_token": "encoder.tokens.cls",
    r"^vit\.embeddings\.position_embeddings": "encoder.tokens.positions",
    r"^vit\.embeddings\.patch_embeddings\.projection": "encoder.tokens.embed.linear",
    r"^vit\.layers\.": "encoder.blocks.",
    r"^vit\.layernorm\.": "encoder.norm.",
    r"^decoder\.decoder_layers\.": "blocks.",
    r"^decoder\.decoder_pos_embed": "positions",
    r"^decoder\.decoder_pred": "predict",
    r"^decoder\.(decoder_)?": "",
    **IN_BLOCK,
}


def mae_from_transformers(model: nn.Module) -> MaskedAutoencoder:
    """Our masked autoencoder with the shape and weights of transformers' `ViTMAEForPreTraining`."""
    check_type(model, "ViTMAEForPreTraining")
    c, options = model.config, shared_options(model.config)
    encoder = VisionTransformer(pair(c.image_size), position="sincos", mlp_dim=c.intermediate_size, **options)
    ours = MaskedAutoencoder(
        encoder,
        dim=c.decoder_hidden_size,
        depth=c.decoder_num_hidden_layers,
        num_heads=c.decoder_num_attention_heads,
        mlp_dim=c.decoder_intermediate_size,
        mask_ratio=c.mask_ratio,
        normalise=c.norm_pix_loss,
    )
    ours = load_mapped(model, ours, FROM_MAE, flatten_patches)
    p, q = encoder.tokens.patch_size
    with torch.no_grad():  # their patches are flattened channel last, ours channel first
        for weight in ours.predict.parameters():
            rows = weight.unflatten(0, (p, q, c.num_channels)).movedim(2, 0)
            weight.copy_(rows.reshape(weight.shape))
    return ours
