"""A real sentence encoder and real language models, masked and not, small enough for a test: one layer of 32 to 64 dimensions made in a second without a hub."""

from __future__ import annotations

import io
import string
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, BertModel, BertTokenizerFast, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = (
    "the a of and in to it is about on for with sport sports match goal team player coach league tech technology computer phone software chip "
    "business market bank profit shares economy politics minister election party vote law film music actor album band show entertainment"
)


def tiny_backbone(folder: Path, *, seed: int = 0, max_tokens: int = 64) -> SentenceTransformer:
    """A `SentenceTransformer` with random weights that depend on `seed` alone, on the CPU; `folder` gets its transformer's files."""
    folder.mkdir(parents=True, exist_ok=True)
    characters = string.ascii_lowercase + string.digits + string.punctuation
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *characters,
        *(f"##{one}" for one in characters),
        *(w for w in WORDS.split() if len(w) > 1),
    ]
    tokenizer = BertTokenizerFast(
        vocab={piece: number for number, piece in enumerate(dict.fromkeys(pieces))}, do_lower_case=True, model_max_length=128
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=128,
            initializer_range=0.5,
        )
        model = BertModel(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return SentenceTransformer(modules=[Transformer(str(folder), max_seq_length=max_tokens), Pooling(32, "mean"), Normalize()], device="cpu")


def tiny_masked(folder: Path, groups: Mapping[str, Sequence[str]], *, seed: int = 0) -> Path:
    """A masked language model that knows which words belong together; returns `folder`.

    Its weights are set, not trained: a group's name and every second word of it share a direction, the words between them have little of it, attention is
    the mean of the text, and the feed-forward layer adds nothing at first. So where one of the former stands, its group's words are the likeliest; at other
    places the group only weighs in. All weights can still be trained.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.ascii_lowercase, *(f"##{one}" for one in string.ascii_lowercase)]
    pieces += [*string.digits, *(f"##{one}" for one in string.digits), *":-()[]", "news", "category", "the"]
    known = [[name, *words] for name, words in groups.items()]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys([*pieces, *(word for words in known for word in words)]))}
    tokenizer = BertTokenizerFast(vocab=vocabulary, do_lower_case=True, model_max_length=64)
    size = 32
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertForMaskedLM(
            BertConfig(
                vocab_size=len(tokenizer),
                hidden_size=size,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=64,
                max_position_embeddings=64,
            )
        )
        layer, transform = model.bert.encoder.layer[0], model.cls.predictions.transform
        with torch.no_grad():
            rows = model.bert.embeddings.word_embeddings.weight
            rows.copy_(0.3 * torch.randn(rows.shape))
            for number, words in enumerate(known):
                for place, word in enumerate(words):
                    strong = place == 0 or place % 2 == 1
                    rows[vocabulary[word]] = (0.1 if strong else 0.3) * torch.randn(size)
                    rows[vocabulary[word], number] = 1.0 if strong else 0.6
            for linear in (layer.attention.self.query, layer.attention.self.key, layer.output.dense):
                torch.nn.init.zeros_(linear.weight)
            for linear in (layer.attention.self.value, layer.attention.output.dense, transform.dense):
                torch.nn.init.eye_(linear.weight)
            layer.attention.output.dense.weight *= 2.0  # the text says more about a place than the word that stands there
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_language_model(folder: Path, *, seed: int = 0) -> Path:
    """A language model that vLLM serves: whatever it is shown, it goes on with words of `WORDS` in a random order, which is another one at every asking.

    After each word it ends with a probability of about a fifth, so hardly one of ten tries for a short name of ten words is cut off.

    It knows these words and no others, and has a chat template that shows the messages as they are. Returns `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    words = ["<unk>", "<s>", "</s>", *dict.fromkeys(WORDS.split())]
    numbers = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", numbers["<s>"])])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>", model_max_length=256
    )
    fast.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    fast.save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(words),
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=1,
                num_attention_heads=2,  # of 32 dimensions, the fewest that vLLM's attention takes on a CPU
                num_key_value_heads=2,
                max_position_embeddings=256,
                bos_token_id=numbers["<s>"],
                eos_token_id=numbers["</s>"],
                pad_token_id=numbers["</s>"],
            )
        )
        with torch.no_grad():  # one dimension that every word has, and that the end is likelier by
            model.model.embed_tokens.weight[:, 0] = 0.1
            model.lm_head.weight[:, 0] = 0.0
            model.lm_head.weight[numbers["</s>"], 0] = 0.6
    model.save_pretrained(folder)
    return folder


def toy_images(count: int, *, seed: int = 0, side: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """(pixels `[count, 3, side, side]` in uint8, labels): noise, brighter in red for class 0 and in blue for class 1, the classes taking turns."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    pixels = rng.integers(0, 120, size=(count, 3, side, side))
    pixels[np.arange(count), np.where(labels == 0, 0, 2)] += 80
    return pixels.astype(np.uint8), labels


def encoded_image(pixels: np.ndarray) -> bytes:
    """A PNG file of `[3, height, width]`."""
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(content, format="PNG")
    return content.getvalue()
