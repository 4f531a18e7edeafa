"""A bundle as it was trained, by PyTorch: its encoder, checked while it is opened, and its probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding, WordEmbeddings

from selftrain.bundle.checking import read_header, reason_of
from selftrain.errors import BundleError, SelfTrainError

MISSING_NUMBERS = 8 << 20  # of an encoder that its file may lack: a pooler that nothing uses


class TorchBackend:
    """The bundle as it was trained.

    Args:
        backbone: the encoder.
        weights: `[classes, dimensions]`.
        bias: `[classes]` or None.
        scale: factor on the similarities.
        cosine: whether embeddings are normalised to length one.
        independent: whether a class's probability is the sigmoid of its own logit, and no softmax of all.
    """

    name = "torch"

    def __init__(
        self,
        backbone: SentenceTransformer,
        weights: torch.Tensor,
        bias: torch.Tensor | None,
        scale: float,
        *,
        cosine: bool,
        independent: bool = False,
    ) -> None:
        self.backbone = backbone.eval()
        self.weights, self.bias = (None if tensor is None else tensor.detach().to(backbone.device).double() for tensor in (weights, bias))
        self.scale, self.cosine, self.independent = scale, cosine, independent
        self.pads = not isinstance(backbone[0], StaticEmbedding)
        self.on_cpu = backbone.device.type == "cpu"

    def __call__(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """See `Backend`."""
        return self.embedded(ids, mask)[0]

    def embedded(self, ids: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """See `Backend`."""
        device = self.backbone.device
        with torch.inference_mode():
            features = features_of(self.backbone, torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device))
            embeddings = self.backbone(features)["sentence_embedding"].float()
            if self.cosine:
                embeddings = F.normalize(embeddings, dim=-1)
            assert self.weights is not None
            logits = self.scale * embeddings.double() @ self.weights.T
            if self.bias is not None:
                logits = logits + self.bias
            found: np.ndarray = (torch.sigmoid(logits) if self.independent else torch.softmax(logits, dim=-1)).cpu().numpy()
        return found, embeddings.cpu().numpy()


def features_of(backbone: SentenceTransformer, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """The input of the encoder's first module, from padded ids and mask."""
    if isinstance(backbone[0], StaticEmbedding):
        lengths = mask.sum(dim=1)
        return {"input_ids": ids[mask.bool()], "offsets": lengths.cumsum(0) - lengths}
    features = {"input_ids": ids, "attention_mask": mask}
    return features | ({"sentence_lengths": mask.sum(dim=1)} if isinstance(backbone[0], WordEmbeddings) else {})


def open_backbone(folder: Path, device: str) -> SentenceTransformer:
    """The encoder of a bundle.

    Raises:
        BundleError: it is damaged.
    """
    try:
        _check_shapes(folder)
        backbone = SentenceTransformer(str(folder), device=device, local_files_only=True, trust_remote_code=False)
    except SelfTrainError:
        raise
    except Exception as error:  # transformers, tokenizers and torch raise many classes for settings and weights that make no sense
        raise BundleError(f"The encoder of the bundle {folder} cannot be opened ({reason_of(error)}); write the bundle again.") from None
    for name, tensor in backbone.state_dict().items():
        if tensor.is_floating_point() and not all(torch.isfinite(part).all() for part in tensor.reshape(-1).split(1 << 22)):
            raise BundleError(f"The weights {name} of the bundle {folder} hold numbers that are not finite; train it again.")
    _check_ids(backbone, folder)
    return backbone


def _check_shapes(folder: Path) -> None:
    """Raise a `BundleError` unless config.json describes a transformer of the weights' shapes: it is built at that size before the weights are read."""
    if not (folder / "config.json").is_file():
        return  # an encoder of words, or a static one, whose settings were checked
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModel.from_config(config, trust_remote_code=False)
    weights = {name: shape for file in folder.glob("model*.safetensors") for name, (_, shape) in read_header(file).items()}
    prefix = f"{model.base_model_prefix}."
    shapes = {name.removeprefix(prefix): shape for name, shape in weights.items()}
    missing = 0
    for name, parameter in model.named_parameters():
        shape = shapes.get(name.removeprefix(prefix))
        if shape is None:
            missing += parameter.numel()
        elif shape != tuple(parameter.shape):
            raise BundleError(
                f"{folder / 'config.json'} says that {name} has shape {tuple(parameter.shape)}, and the weights have {shape}; write the bundle again."
            )
    if missing > MISSING_NUMBERS:
        raise BundleError(f"The weights of the bundle {folder} lack {missing:,} numbers of those in config.json; write the bundle again.")


def _check_ids(backbone: SentenceTransformer, folder: Path) -> None:
    """Raise a `BundleError` where the tokenizer knows more tokens than the encoder has vectors."""
    known: Any = getattr(backbone.tokenizer, "get_vocab", dict)()
    table = next((module for module in backbone.modules() if isinstance(module, torch.nn.Embedding | torch.nn.EmbeddingBag)), None)
    # A tokenizer of words has a list, which was compared with the vectors already.
    if isinstance(known, dict) and known and table is not None and max(known.values()) >= table.num_embeddings:
        raise BundleError(
            f"The tokenizer of the bundle {folder} has token ids up to {max(known.values()):,}, and its encoder {table.num_embeddings:,} vectors; "
            "write the bundle again."
        )
