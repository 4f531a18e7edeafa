"""The model card of a bundle, README.md: what its card says, in Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selftrain.bundle.checking import CARD, REFERENCE
from selftrain.bundle.reference import ReferenceFacts
from selftrain.models.windows import DOCUMENT_TOKENS

if TYPE_CHECKING:
    from selftrain.bundle.format import BundleCard, BundleMetrics


def model_card(card: BundleCard) -> str:
    """The model card (README.md): the facts of `card` in Markdown."""
    seen = "no label of any document" if card.supervision == "none" else f"labels of the training documents (supervision: {card.supervision})"
    alone = "" if card.windows == 1 else f" and embeds the first {card.max_tokens} tokens of a text"
    helper = f"{card.llm} (fingerprint {card.llm_fingerprint or 'unknown'}), no longer needed" if card.llm else "none"
    lines = [
        "---",
        "library_name: sentence-transformers",
        "pipeline_tag: text-classification",
        "tags: [selftrain, text-classification, self-training]",
        "---",
        "",
        f"# {card.name}: a text classifier for {len(card.labels)} classes",
        "",
        f"Made by selftrain on {card.created} with the method `{card.method}`.",
        "",
        "## Classes",
        "",
        *(f"- {' / '.join(card.path_of(index))}{_prompt_of(card, index)}" for index in range(len(card.labels))),
        "",
        "## How it was trained",
        "",
        f"- Supervision: the learner saw {seen}.",
        f"- Data: {card.data or 'unnamed'} (fingerprint {card.data_fingerprint or 'unknown'}).",
        f"- Encoder at the start: {card.encoder or 'unknown'} (fingerprint {card.encoder_fingerprint or 'unknown'}).",
        f"- Language model that wrote texts for training: {helper}.",
        f"- Full configuration: `experiment` in {CARD}.",
        "",
        "## How good it is",
        "",
        *_metrics_lines(card.metrics),
        "",
        "## How it decides",
        "",
        _reading(card),
        _deciding(card),
        "",
        *([] if card.promise is None else [f"Asked to abstain: {card.promise.sentence}.", ""]),
        *([] if card.sets is None else [f"Asked for sets: {card.sets.sentence}.", ""]),
        *([] if card.none_of_these is None else [f"Asked for none of these: {card.none_of_these.sentence}.", ""]),
        "## Intended use and limits",
        "",
        "- For texts like those it was trained on, and for these classes only" + _for_all(card),
        f"- {_limit(card)}",
        "- The calibration is that of the figures above, and worse on other texts. Do not act on a single prediction without a look at the text.",
        "- It inherits the biases of its encoder and of the language model's texts; their licences and terms apply to it too.",
        "",
        "## How to load it",
        "",
        "```python",
        "from selftrain import Classifier",
        "",
        'classifier = Classifier.load("path/to/this/folder")',
        'classifier.predict(["a text"]), classifier.predict_proba(["a text"])',
        "```",
        "",
        f"The encoder alone opens with `sentence_transformers.SentenceTransformer(folder)`{alone}; a registered copy with `mlflow.pyfunc.load_model(...)`.",
        "",
        *([] if card.reference is None else [_reference(card.reference), ""]),
        "Versions: " + ", ".join(f"{name} {number}" for name, number in card.versions.items()) + ".",
        "",
    ]
    return "\n".join(lines)


def _reference(facts: ReferenceFacts) -> str:
    kind = "texts that training did not see" if facts.held_out else "texts that it was trained on"
    return (
        f"`{REFERENCE}` holds probabilities and embeddings of {facts.kept:,} {kind}, for `selftrain watch` and `none_of_these`; much of a text can be guessed "
        "from its embedding. Nothing else needs the file."
    )


def _reading(card: BundleCard) -> str:
    compared = f"compared with one prototype a class by {card.similarity} similarity;"
    if card.windows == 1:
        return f"A text is cut at {card.max_tokens} tokens, embedded, and {compared}"
    windows = f"Up to {card.windows} windows of a text, of {card.max_tokens} tokens each, are embedded and {compared}"
    return f"{windows} the text's similarities are the means of its windows';"


def _deciding(card: BundleCard) -> str:
    if not card.multi_label:
        return f"the probability is the softmax of the similarities times {card.scale:g}, plus the bias where prototypes.safetensors holds one."
    limits = ", ".join(f"{name} {limit:.4f}" for name, limit in zip(card.labels, card.thresholds, strict=True))
    basis = "The thresholds were chosen without labels, and nothing is promised of them."
    if card.found_labels is not None:
        basis = f"Of the thresholds is promised: {card.found_labels.sentence}."
    own = "each class has a probability of its own, the sigmoid of its similarity plus its bias"
    return f"{own}, and a text has every class from its threshold on: {limits}. {basis}"


def _limit(card: BundleCard) -> str:
    if card.windows == 1:
        return f"Only the first {card.max_tokens} tokens of a text are read."
    spread = f"evenly spread over its first {DOCUMENT_TOKENS:,} tokens; what lies between them is not read."
    return f"Of a text that {card.windows} windows do not hold, {card.windows} parts are read, {spread}"


def _prompt_of(card: BundleCard, index: int) -> str:
    return f" (prompt: “{card.label_prompts[index][0]}”)" if index < len(card.label_prompts) and card.label_prompts[index] else ""


def _metrics_lines(metrics: BundleMetrics) -> list[str]:
    named: dict[str, float | None] = {
        "Accuracy" if metrics.micro_f1 is None else "Exact match": metrics.accuracy,
        "Micro-F1": metrics.micro_f1,
        "Macro-F1": metrics.macro_f1,
        "Expected calibration error": metrics.ece,
    }
    levels = metrics.group_accuracy
    named |= {"Accuracy of groups" + (f", level {level}" if len(levels) > 1 else ""): value for level, value in enumerate(levels, 1)}
    known = {name: value for name, value in named.items() if value is not None}
    if not known:
        return ["Unknown: the test documents have no labels."]
    return [
        f"On {metrics.documents:,} labeled test documents:",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value:.4f} |" for name, value in known.items()),
    ]


def _for_all(card: BundleCard) -> str:
    """What becomes of a text that fits no class, as the end of a sentence."""
    if card.multi_label:
        return "."
    return f": every text gets one of them, even a text that fits none{'.' if card.reference is None else ', unless it is asked for none of these.'}"
