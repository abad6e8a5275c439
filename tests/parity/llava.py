"""`mmscratch.llava` against transformers: logits, loss, ragged batches and greedy texts, over awkward sizes.

Pictures, patches, words, heads and widths all differ from one another, so that a swapped axis shows. Each
mutant maps the weights correctly and then breaks our model in one way; the comparison must notice.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import nn

from mmscratch.kit.reference import Case, mutants

# ---------------------------------------------------------------------------------------------------------
# Both sides


def from_transformers(model):
    from mmscratch import llava

    return llava.from_transformers(model)


VISION = dict(
    hidden_size=48,
    intermediate_size=60,
    num_hidden_layers=3,
    num_attention_heads=4,
    image_size=24,
    patch_size=8,
    projection_dim=32,
)
LANGUAGE = dict(
    vocab_size=61,
    hidden_size=40,
    intermediate_size=52,
    num_hidden_layers=2,
    num_attention_heads=5,
    num_key_value_heads=5,
    max_position_embeddings=128,
    tie_word_embeddings=False,
)
IMAGE = 7  # among the words, so that forgetting it leaves a number in the vocabulary


def reference(vision=None, language=None, *, family="llama", **options):
    def build():
        import transformers

        special = dict(bos_token_id=None, eos_token_id=None, pad_token_id=None)
        config = transformers.LlavaConfig(
            vision_config=VISION | dict(model_type="clip_vision_model") | (vision or {}),
            text_config=LANGUAGE | special | dict(model_type=family) | (language or {}),
            **dict(image_token_index=IMAGE) | options,
        )
        model = transformers.LlavaForConditionalGeneration(config)
        model.generation_config.pad_token_id = 0
        return model

    return build


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def words(*shape, vocab=61):
    """Seeded ids without the image token."""
    ids = torch.randint(1, vocab - 1, shape, generator=seeded(1))
    return ids + (ids >= IMAGE)


def talk(before, patches, after, *, batch=3, size=24, channels=3, vocab=61, pictures=1):
    """(ids, pixel_values): in every row some words, then each picture's tokens and `after` words."""

    def build():
        ids = words(batch, before + pictures * (patches + after), vocab=vocab)
        for k in range(pictures):
            start = before + k * (patches + after)
            ids[:, start : start + patches] = IMAGE
        return ids, torch.randn(batch * pictures, channels, size, size, generator=seeded(2))

    return build


def ragged(lengths, patches, *, left, total=None, size=24, vocab=61):
    """(ids, pixel_values, mask): rows of these lengths, each with a picture after its first word."""

    def build():
        T = total or max(lengths)
        ids = words(len(lengths), T, vocab=vocab)
        mask = torch.arange(T) < torch.tensor(lengths)[:, None]
        mask = mask.flip(1) if left else mask
        for row, length in enumerate(lengths):
            start = (T - length if left else 0) + 1
            ids[row, start : start + patches] = IMAGE
        return ids, torch.randn(len(lengths), 3, size, size, generator=seeded(2)), mask.long()

    return build


def with_labels(build, *, unlabelled):
    """Adds labels: the ids, without pictures, without padding, and without the words that are named."""

    def call():
        ids, pixels, *mask = build()
        labels = ids.masked_fill(ids == IMAGE, -100)
        for row, columns in enumerate(unlabelled):
            labels[row, columns] = -100
        if mask:
            labels = labels.masked_fill(mask[0] == 0, -100)
        return ids, pixels, labels, *mask

    return call


def logits(model, ids, pixels=None):
    return model(input_ids=ids, pixel_values=pixels, use_cache=False).logits


def real_logits(model, ids, pixels, mask):
    found = model(input_ids=ids, pixel_values=pixels, attention_mask=mask, use_cache=False)
    return found.logits[mask.bool()]


def our_real_logits(model, ids, pixels, mask):
    return model(input_ids=ids, pixel_values=pixels, attention_mask=mask)[mask.bool()]


def from_mapped(model, ids, pixels, mask):
    """As `generate` does it: position ids from the mask."""
    places = (mask.cumsum(1) - 1).clamp(min=0)
    found = model(
        input_ids=ids, pixel_values=pixels, attention_mask=mask, position_ids=places, use_cache=False
    )
    return found.logits[mask.bool()]


def loss(model, ids, pixels, labels, mask=None):
    found = model(input_ids=ids, pixel_values=pixels, attention_mask=mask, labels=labels, use_cache=False)
    return found.loss


def our_loss(model, ids, pixels, labels, mask=None):
    from mmscratch import llava

    return llava.loss(model(ids, pixels, mask), labels)


def filled(ids, length):
    """Texts that ended early, with -1 up to the full length."""
    return F.pad(ids, (0, length - ids.shape[1]), value=-1)


def greedy(count, **options):
    def call(model, ids, pixels=None, mask=None):
        mask = torch.ones_like(ids) if mask is None else mask
        found = model.generate(
            input_ids=ids,
            pixel_values=pixels,
            attention_mask=mask,
            max_new_tokens=count,
            do_sample=False,
            **options,
        )
        return filled(found, ids.shape[1] + count)

    return call


def our_greedy(count, **options):
    def call(model, ids, pixels=None, mask=None):
        found = model.generate(ids, count, pixel_values=pixels, attention_mask=mask, **options)
        return filled(found, ids.shape[1] + count)

    return call


# ---------------------------------------------------------------------------------------------------------
# Mutants: model -> None, breaks it in place


def layer_after(model):
    model.layer += 1


def layer_before(model):
    model.layer -= 1


def last_layer(model):
    model.layer = -1


def layers_exchanged(model):
    model.layer = list(reversed(model.layer))


def seeing(change):
    """A mutant of the features before the projector: change(features with the class token) -> features."""

    @functools.wraps(change)
    def apply(model):
        from mmscratch import llava

        def see(pixels):
            return change(llava.hidden_states(model.vision, pixels, model.layer, keep_prefix=True))

        model.see = see

    return apply


@seeing
def class_token_kept_and_last_patch_cut(x):
    return x[:, :-1]


@seeing
def class_token_last(x):
    return x.roll(-1, dims=1)


@seeing
def patches_by_column(x):
    return x[:, 1:].unflatten(1, (3, 3)).transpose(1, 2).flatten(1, 2)


@seeing
def patches_backwards(x):
    return x[:, 1:].flip(1)


@seeing
def pictures_exchanged(x):
    return x[:, 1:].roll(1, dims=0)


def class_token_dropped(model):
    """The last patch twice, so that the number of tokens stays."""
    plain = model.see
    model.see = lambda pixels: torch.cat([plain(pixels)[:, 1:], plain(pixels)[:, -1:]], dim=1)


def final_norm_on_features(model):
    plain, norm = model.see, model.vision.vit.norm
    model.see = lambda pixels: norm(plain(pixels))


def no_norm_before(model):
    model.vision.vit.pre_norm = nn.Identity()


def image_positions_shifted(model):
    table = model.vision.vit.tokens.positions
    table.copy_(table.roll(1, dims=1))


def projector_without_activation(model):
    model.projector.act = nn.Identity()


def act(name, function):
    def apply(model):
        model.projector.act = function

    apply.__name__ = f"projector_with_{name}"
    return apply


relu, silu, exact_gelu = act("relu", F.relu), act("silu", F.silu), act("exact_gelu", F.gelu)
tanh_gelu = act("tanh_gelu", functools.partial(F.gelu, approximate="tanh"))


def projector_without_bias(model):
    for linear in (model.projector.fc1, model.projector.fc2):
        linear.bias.zero_()


def projector_maps_exchanged(model):
    """Where both maps are square, this passes every shape check."""
    model.projector.fc1, model.projector.fc2 = model.projector.fc2, model.projector.fc1


def embedding(change):
    """A mutant of the spliced sequence: change(model, x, ids) -> x."""

    @functools.wraps(change)
    def apply(model):
        plain = model.embed
        model.embed = lambda ids, *rest: change(model, plain(ids, *rest), ids)

    return apply


@embedding
def picture_one_place_late(model, x, ids):
    return torch.where((ids == IMAGE)[..., None], x.roll(1, dims=1), x)


@embedding
def picture_added_to_its_placeholder(model, x, ids):
    return x + model.language.embed(ids) * (ids == IMAGE)[..., None]


@embedding
def picture_forgotten(model, x, ids):
    return model.language.embed(ids)


def reading(change):
    """A mutant that edits what the language model is called with: change(options) -> new ones."""

    @functools.wraps(change)
    def apply(model):
        plain = model.language.encode

        def encode(ids=None, **options):
            options = dict(mask=None, positions=None, cache=None) | options
            B, T = options["embeddings"].shape[:2]
            return plain(ids, **options | change(B, T, options))

        model.language.encode = encode

    return apply


@reading
def mask_leaks(B, T, given):
    """Every token sees the next one."""
    allowed = torch.ones(B, T, T, dtype=torch.bool).tril(1)
    return dict(mask=allowed if given["mask"] is None else allowed & given["mask"][:, None])


@reading
def picture_sees_itself_both_ways(B, T, given):
    """A prefix mask over the first ten places, which LLaVA does not have."""
    allowed = torch.ones(B, T, T, dtype=torch.bool).tril()
    allowed[:, :10, :10] = True
    return dict(mask=allowed if given["mask"] is None else allowed & given["mask"][:, None])


@reading
def padding_seen(B, T, given):
    return dict(mask=None)


@reading
def padding_mask_one_off(B, T, given):
    return dict(mask=given["mask"].roll(1, dims=1))


@reading
def picture_counts_as_one_position(B, T, given):
    start = given["cache"].length if given["cache"] else 0
    places = torch.arange(start, start + T)
    return dict(positions=torch.where(places > 9, places - 8, places.clamp(max=1)))


@reading
def text_restarts_after_the_picture(B, T, given):
    places = torch.arange(T)
    return dict(positions=torch.where(places > 9, places - 10, places))


@reading
def positions_restart(B, T, given):
    """What is read with the cache starts at position 0 again."""
    return dict(positions=torch.arange(T))


@reading
def positions_count_padding_while_generating(B, T, given):
    """The prompt is placed by its mask, new words by how many stand before them, padding included."""
    start = given["cache"].length
    return {} if start == 0 else dict(positions=torch.arange(start, start + T))


@reading
def picture_hidden_from_new_words(B, T, given):
    mask = torch.ones(B, given["cache"].length + T, dtype=torch.bool)
    mask[:, 1:10] = given["cache"].length == 0
    return dict(mask=mask)


def labelled(change):
    """A mutant of the loss: change(labels, ids) -> labels."""

    @functools.wraps(change)
    def call(model, ids, pixels, labels, mask=None):
        return our_loss(model, ids, pixels, change(labels, ids), mask)

    return call


def never_says(token):
    """A mutant that reaches the end of no text, which proves that the right one does."""

    def apply(model):
        model.language.head.register_forward_hook(
            lambda head, inputs, found: found.index_fill(-1, torch.tensor([token]), -1e9)
        )

    return apply


def no_final_norm(model):
    model.language.norm = nn.Identity()


def query_is_key(model):
    for block in model.language.blocks:
        q, k, v = block.attention.qkv.weight.chunk(3)
        block.attention.qkv.weight.copy_(torch.cat([k, q, v]))


SEES = (
    layer_after,
    layer_before,
    class_token_kept_and_last_patch_cut,
    patches_by_column,
    patches_backwards,
    pictures_exchanged,
    final_norm_on_features,
    no_norm_before,
    image_positions_shifted,
)
PROJECTS = (projector_without_activation, relu, tanh_gelu, projector_without_bias)
SPLICES = (picture_one_place_late, picture_added_to_its_placeholder, picture_forgotten)
READS = (
    mask_leaks,
    picture_sees_itself_both_ways,
    picture_counts_as_one_position,
    text_restarts_after_the_picture,
    no_final_norm,
    query_is_key,
)

# ---------------------------------------------------------------------------------------------------------
# Cases


def case(name, build, inputs, *changes, ours=None, theirs=logits, bound=1e-5, bench=False, named=None):
    return Case(
        name,
        build,
        from_transformers,
        inputs,
        wrong=mutants(from_transformers, *changes, **named or {}),
        call_ours=ours,
        call_reference=theirs,
        bound=bound,
        bench=bench,
        primitive="llava.LLaVA",
        library="transformers LLaVA",
    )


def loss_case(name, build, inputs, *changes):
    return case(name, build, inputs, *changes, ours=our_loss, theirs=loss)


def with_wrong_labels(name, build, inputs, **wrong):
    """A loss whose wrong variants label what must not count: theirs are calls, not models."""

    def variant(call):
        def mapping(model):
            ours = from_transformers(model)
            ours.wrong_call = call
            return ours

        return mapping

    def ours(model, *arguments):
        return getattr(model, "wrong_call", our_loss)(model, *arguments)

    found = case(name, build, inputs, ours=ours, theirs=loss)
    found.wrong.update({name.replace("_", " "): variant(labelled(c)) for name, c in wrong.items()})
    return found


def image_labelled(labels, ids):
    return labels.where(ids != IMAGE, ids)


def question_labelled(labels, ids):
    return ids.masked_fill(ids == IMAGE, -100)


def labels_one_early(labels, ids):
    return labels.roll(-1, dims=1)


def first_answer_only(labels, ids):
    return labels.clone().index_fill(1, torch.arange(14, labels.shape[1]), -100)


TWO = talk(2, 9, 5)
ASKED = [range(0, 13), range(0, 12), range(0, 15)]
LEFT, RIGHT = (ragged([19, 12, 15], 9, left=left) for left in (True, False))
SMALL_VISION = dict(
    hidden_size=128,
    intermediate_size=512,
    num_hidden_layers=2,
    num_attention_heads=4,
    image_size=32,
    patch_size=8,
)
SMALL_LANGUAGE = dict(
    vocab_size=100,
    hidden_size=128,
    intermediate_size=344,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=4,
)
LARGE_VISION = dict(
    hidden_size=384,
    intermediate_size=1536,
    num_hidden_layers=4,
    num_attention_heads=6,
    image_size=112,
    patch_size=14,
)
LARGE_LANGUAGE = dict(
    vocab_size=1000,
    hidden_size=512,
    intermediate_size=1376,
    num_hidden_layers=4,
    num_attention_heads=8,
    num_key_value_heads=8,
    max_position_embeddings=256,
)
SMALL = reference(SMALL_VISION, SMALL_LANGUAGE)
LARGE = reference(LARGE_VISION, LARGE_LANGUAGE)
small_talk = functools.partial(talk, size=32, vocab=100)

CASES = [
    case("nine patches among seven words", reference(), TWO, *SEES, *PROJECTS, *SPLICES, *READS),
    case("one picture first, no word before", reference(), talk(0, 9, 4, batch=2), *SPLICES),
    case("picture last", reference(), talk(3, 9, 0, batch=2), layer_after),
    case(
        "two pictures in a row of text", reference(), talk(1, 9, 3, pictures=2), *SPLICES, pictures_exchanged
    ),
    case("no picture at all", reference(), lambda: (words(3, 11),), mask_leaks, no_final_norm),
    case("last layer", reference(vision_feature_layer=-1), TWO, layer_before, final_norm_on_features),
    case(
        "first layer, counted from the front",
        reference(vision_feature_layer=1),
        TWO,
        layer_after,
        layer_before,
    ),
    case(
        "before the first layer and after it", reference(vision_feature_layer=[0, 1]), TWO, layers_exchanged
    ),
    case(
        "three layers side by side",
        reference(vision_feature_layer=[-1, 1, -3]),
        TWO,
        layers_exchanged,
        class_token_kept_and_last_patch_cut,
        projector_without_activation,
    ),
    case(
        "class token kept",
        reference(vision_feature_select_strategy="full"),
        talk(2, 10, 5),
        class_token_last,
        class_token_dropped,
        layer_after,
    ),
    case(
        "projector without bias",
        reference(multimodal_projector_bias=False),
        TWO,
        projector_without_activation,
    ),
    case("projector with ReLU", reference(projector_hidden_act="relu"), TWO, exact_gelu),
    case("projector with tanh GELU", reference(projector_hidden_act="gelu_new"), TWO, exact_gelu, silu),
    case(
        "square projector",
        reference(language=dict(hidden_size=48, num_attention_heads=6, num_key_value_heads=6)),
        TWO,
        projector_maps_exchanged,
        projector_without_activation,
    ),
    case(
        "grouped keys",
        reference(language=dict(hidden_size=48, num_attention_heads=6, num_key_value_heads=2)),
        TWO,
        mask_leaks,
    ),
    case(
        "head tied to the embedding", reference(language=dict(tie_word_embeddings=True)), TWO, no_final_norm
    ),
    case("Qwen2 reads", reference(family="qwen2"), TWO, *SPLICES, mask_leaks, layer_after),
    case(
        "pictures of one channel, patches of four",
        reference(dict(num_channels=1, patch_size=4, image_size=12)),
        talk(2, 9, 3, batch=2, size=12, channels=1),
        patches_by_column,
    ),
    case(
        "padded on the right",
        reference(),
        RIGHT,
        mask_leaks,
        layer_after,
        picture_forgotten,
        ours=our_real_logits,
        theirs=real_logits,
    ),
    case(
        "padded on the left",
        reference(),
        LEFT,
        mask_leaks,
        padding_seen,
        padding_mask_one_off,
        layer_after,
        ours=our_real_logits,
        theirs=from_mapped,
    ),
    case(
        "padded on the left, positions counting padding",
        reference(),
        LEFT,
        padding_seen,
        ours=our_real_logits,
        theirs=real_logits,
    ),
    loss_case(
        "loss of answers",
        reference(),
        with_labels(TWO, unlabelled=ASKED),
        *SEES,
        *PROJECTS,
        *SPLICES,
        *READS,
    ),
    with_wrong_labels(
        "loss of answers, labels",
        reference(),
        with_labels(TWO, unlabelled=ASKED),
        image_labelled=image_labelled,
        question_labelled=question_labelled,
        labels_one_early=labels_one_early,
        first_answer_only=first_answer_only,
    ),
    with_wrong_labels(
        "loss, padded on the left",
        reference(),
        with_labels(LEFT, unlabelled=[range(0, 12), range(0, 18), range(0, 15)]),
        image_labelled=image_labelled,
        question_labelled=question_labelled,
    ),
    loss_case(
        "loss, padded on the right",
        reference(),
        with_labels(RIGHT, unlabelled=[range(0, 12)] * 3),
        mask_leaks,
        picture_forgotten,
    ),
    *(
        case(
            f"greedy texts {how}",
            reference(),
            TWO,
            picture_forgotten,
            layer_after,
            *changes,
            ours=our_greedy(17, use_cache=cached),
            theirs=greedy(17),
        )
        for how, cached, changes in (
            ("with a cache", True, (positions_restart, picture_hidden_from_new_words)),
            ("without a cache", False, (mask_leaks,)),
        )
    ),
    *(
        case(
            f"greedy texts of ragged prompts {how}",
            reference(),
            LEFT,
            *changes,
            picture_forgotten,
            ours=our_greedy(23, use_cache=cached),
            theirs=greedy(23),
        )
        for how, cached, changes in (
            ("with a cache", True, (positions_count_padding_while_generating,)),
            ("without a cache", False, (padding_seen,)),
        )
    ),
    case("32 px, 128 wide, 16 patches among 24 words", SMALL, small_talk(1, 16, 23, batch=32), bench=True),
    case(
        "112 px, 512 wide, 64 patches among 40 words",
        LARGE,
        talk(8, 64, 32, batch=4, size=112, vocab=1000),
        bench="realistic",
    ),
    case(
        "32 new words, 32 px, 128 wide",
        SMALL,
        small_talk(1, 16, 8, batch=2),
        ours=our_greedy(32),
        theirs=greedy(32),
        bench=True,
    ),
    loss_case(
        "loss, 32 px, 128 wide",
        SMALL,
        with_labels(small_talk(1, 16, 23, batch=32), unlabelled=[range(30)] * 32),
    ),
]
