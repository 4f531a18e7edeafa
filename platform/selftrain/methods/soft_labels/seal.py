"""SEAL: soft pseudo-labels from a generator with a learned objective.

Paper: Aligned Objective for Soft-Pseudo-Label Generation in Supervised Learning (Xu et al. 2024, ICML).
Three parts learn together. f is the classifier that is served. g, the same small net, gives the soft pseudo-labels. h, a tiny network (equation 3), is the loss
that g is trained with; it changes so that an f that learns from g's labels does well on the task (algorithm 1). A virtual step of f or g gives a function of all
that its loss depends on (methods/virtual.py), so the gradient in h's weights omega goes through both. h is warmed up first, as released: with its first
weights it as often takes g away from the labels as towards them.
Loss of f: equation 1. Task loss: equation 14 in the released form (`top_k.py`), or cross-entropy.
Needs: labels; images, or a head on frozen embeddings (`model.train: head`).
Differs: f's real step is AdamW, as for the whole family; its virtual step is plain SGD, as in equation 9. g itself is not warmed up. The released code keeps g's
step with the old h and has equation 13 in f's loss: `form: released`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, field_validator

from selftrain.data.texts import TextChannel
from selftrain.errors import ConfigError
from selftrain.methods.bilevel import Net, Parameters, called
from selftrain.methods.few_labels.ns3l import NS3LHost, NS3LHostOptions
from selftrain.methods.losses import text_to_label
from selftrain.methods.semisupervised import Batch
from selftrain.methods.soft_labels.top_k import SORTED, top_k_cross_entropy
from selftrain.methods.virtual import Virtual, virtual

HIDDEN = 40  # units in each of h's two hidden layers (section 4.2)
SLOPE, SHARPNESS = 0.01, 10.0  # gamma and beta of the smooth leaky ReLU, as released
LOOKED_AT = 2000  # labeled documents that g's figures of a round are taken on, at most; the order of documents is random


class SEALOptions(NS3LHostOptions):
    """Options of SEAL."""

    name: Literal["seal"] = "seal"
    weight: float = Field(1.0, ge=0, description="lambda_e: of the loss on soft pseudo-labels (equation 12; the paper gives no value, released: 1)")
    ramp: float = Field(0.25, ge=0, le=1, description="T' as a share of the steps: lambda rises linearly (equation 12)")
    learned: bool = Field(True, description="false: SEAL-NM, g is trained with cross-entropy instead of h (table 2)")
    form: Literal["paper", "released"] = Field(
        "paper",
        description="paper: virtual copies, g repeats its step with the new h (equation 11), f learns by equation 1; "
        "released: g keeps the step with the old h, and f's loss is cross-entropy and equation 13 in the virtual and in the real step",
    )
    generator_rate: float | None = Field(
        None, gt=0, description="alpha: SGD step of g (equations 8 and 11); default: 10, and 1 with learned: false, where g does not converge at 10"
    )
    virtual_rate: float = Field(10.0, gt=0, description="beta: SGD step of f's virtual copy (equation 9)")
    objective_rate: float = Field(1e-3, gt=0, description="kappa: Adam's rate for h (equation 10 with Adam, as released)")
    objective_steps: int = Field(
        300, ge=0, description="warm-up: steps that train h before anything else, on generators made anew (the paper, released: 5000)"
    )
    warm_up_rate: float = Field(1e-3, gt=0, description="Adam's rate for h in these steps (released: 1e-3)")
    temperature: float = Field(1.0, gt=0, description="of the bidirectional divergence (the paper: 1; released: 3 to 5)")
    top_k_prior: tuple[float, ...] = Field(
        (0.8, 0.2),
        min_length=1,
        max_length=SORTED - 1,
        description="P of equation 14 (released, CIFAR-10: 0.8, 0.2); cross-entropy where it has one entry or fills all classes",
    )

    @field_validator("top_k_prior")
    @classmethod
    def _sums_to_one(cls, prior: tuple[float, ...]) -> tuple[float, ...]:
        if min(prior) < 0 or abs(sum(prior) - 1.0) > 1e-6:
            raise ValueError("the entries must be at least 0 and sum to 1")
        return prior


def bidirectional_divergence(logits: torch.Tensor, others: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """l^pl of SEAL's equation 13, KL(s || f) + KL(f || s), the mean over the batch; gradients reach both sides.

    Args:
        logits: of f, `[N, L]`.
        others: logits of the soft pseudo-labels s, `[N, L]`.
        temperature: of both; the result is multiplied with its square (SEAL's released code; the paper has none, which is 1).
    """
    one, two = F.log_softmax(logits / temperature, dim=1), F.log_softmax(others / temperature, dim=1)
    # The two divergences add up to sum_j (p_j - q_j) (log p_j - log q_j).
    return temperature**2 * ((one.exp() - two.exp()) * (one - two)).sum(dim=1).mean()


class LearnedObjective(torch.nn.Module):
    """h of SEAL's equation 3: a network 2 -> 40 -> 40 -> 1 that is applied to (p_k, y_k) of every class k alike, summed over the classes.

    Without biases, as in the released code. The softplus at its end makes it positive.
    """

    def __init__(self, inputs: int = 2) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(*sizes, bias=False) for sizes in ((inputs, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, 1)))
        for layer in self.layers:
            torch.nn.init.kaiming_normal_(layer.weight)  # type: ignore[arg-type]

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The mean over the batch, a number, of logits `[N, L]` and one-hot labels `[N, L]`."""
        return self.of_pairs(torch.stack([torch.softmax(logits, dim=1), targets], dim=2))

    def of_pairs(self, found: torch.Tensor) -> torch.Tensor:
        """The mean over the batch, a number, of what there is of every class, `[N, L, inputs]`."""
        for layer in self.layers[:-1]:
            found = smooth_leaky_relu(layer(found))
        return F.softplus(self.layers[-1](found)).sum(dim=(1, 2)).mean()


def smooth_leaky_relu(values: torch.Tensor) -> torch.Tensor:
    """gamma x + (1 - gamma) softplus_beta(x): a leaky ReLU with second derivatives (Online Loss Function Learning, Raymond et al. 2023, arXiv:2301.13247)."""
    return SLOPE * values + (1.0 - SLOPE) * F.softplus(values, beta=SHARPNESS)


class SEAL(NS3LHost):
    """See the module's docstring. Documents without a granted label are used by NS3L's loss alone, if that is on."""

    paper = "Aligned Objective for Soft-Pseudo-Label Generation in Supervised Learning (Xu et al. 2024, ICML)"
    summary = "soft pseudo-labels of a generator whose loss is learned from how well the classifier does with them"
    stateful = (*NS3LHost.stateful, "objective", "objective_optimizer")
    Options = SEALOptions
    options: SEALOptions

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        if not self.encoder.tensors:
            raise ConfigError(
                f"model.train must be 'head': the method {self.name} takes second derivatives of what it trains, and a full encoder is too large for that.",
                parameter="model.train",
            )
        # f: the modules that are trained, so the optimiser changes its parameters.
        self.net = Net(self.encoder, self.classifier)
        self.generator = self.fresh_generator()  # psi
        self.objective = self.make_objective().to(self.encoder.device)
        self.objective_optimizer = torch.optim.Adam(self.objective.parameters(), lr=self.options.objective_rate)
        self.generator_rate = self.options.generator_rate or (10.0 if self.options.learned else 1.0)
        classes = len(self.corpus.labels)
        self.uses_top_k = 1 < len(self.options.top_k_prior) < classes
        self._soft_logits: torch.Tensor | None = None  # of the step's labeled documents, from g
        self._logits: torch.Tensor | None = None  # of the same, from f

    def make_objective(self) -> LearnedObjective:
        """h with its first weights."""
        return LearnedObjective()

    @property
    def warms_up(self) -> bool:
        """Whether h is trained before anything else."""
        return self.options.learned

    def fresh_generator(self) -> Parameters:
        """Parameters for g: an encoder as f's is at the start (a head's residual layer at zero, new weights for images), and a new classifier."""
        parameters = {f"encoder.{name}": value for name, value in self.encoder.fresh().items()}
        parameters |= {f"classifier.{name}": value.detach() for name, value in self.make_classifier().to(self.encoder.device).named_parameters()}
        return {name: value.requires_grad_() for name, value in parameters.items()}

    def call(self, parameters: Parameters, rows: torch.Tensor) -> torch.Tensor:
        """Logits `[N, L]` of the net with these parameters."""
        return called(self.net, parameters, rows)

    def label_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """l of equation 1 on what is granted: cross-entropy."""
        return F.cross_entropy(logits, labels)

    def task_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """l^t: equation 14 where the number of classes allows it, else cross-entropy."""
        return top_k_cross_entropy(logits, labels, self.options.top_k_prior) if self.uses_top_k else F.cross_entropy(logits, labels)

    def generator_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Equation 4: h of g's predictions; cross-entropy in SEAL-NM."""
        if not self.options.learned:
            return self.label_loss(logits, labels)
        found: torch.Tensor = self.objective(logits, F.one_hot(labels, logits.shape[1]).to(logits))
        return found

    def virtual_task_loss(self, generator: Virtual, rows: torch.Tensor, labels: torch.Tensor, weight: float) -> tuple[torch.Tensor, Virtual]:
        """Lines 4 to 7 of algorithm 1: the task loss of f after a virtual step towards g's labels after g's virtual step, a function of omega.

        Args:
            generator: g on the batch.
            rows: inputs of the batch, `[N, ...]`.
            labels: `[N]`.
            weight: lambda of the virtual step's loss in the released form.

        Returns:
            The loss, and g after its virtual step.
        """
        options = self.options
        stepped = generator.stepped(self.generator_loss(generator.logits(), labels), self.generator_rate)
        classifier = virtual(self.net, dict(self.net.named_parameters()), self.task_parts(rows))  # a copy of f (line 4)
        loss = bidirectional_divergence(classifier.logits(), stepped.logits(), options.temperature)
        if options.form == "released":
            loss = weight * loss + self.label_loss(classifier.logits(), labels)
        return self.task_loss_of(classifier.stepped(loss, options.virtual_rate), labels), stepped

    def task_parts(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """Inputs that the task loss looks at: those of the batch, `rows`, first."""
        return [rows]

    def task_loss_of(self, classifier: Virtual, labels: torch.Tensor) -> torch.Tensor:
        """Equation 6's l^t of f on the batch."""
        return self.task_loss(classifier.logits(), labels)

    def update_objective(self, loss: torch.Tensor, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Equation 10; with the optimiser of the training unless another is given."""
        optimizer = optimizer or self.objective_optimizer
        gradients = torch.autograd.grad(loss, list(self.objective.parameters()))
        for parameter, gradient in zip(self.objective.parameters(), gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def refresh(self, round_: int, texts: TextChannel) -> dict[str, float]:
        figures = super().refresh(round_, texts)
        training = self.encoder.training
        self.encoder.train()  # g has no running statistics: only f's are kept
        with self.encoder.fixed_statistics():
            if round_ == 0 and self.warms_up:
                self._warm_objective()
            figures |= self.generator_figures()
        self.encoder.train(training)
        return figures

    def generator_figures(self) -> dict[str, float]:
        """How often g, at the start of a round, predicts the granted label, and the mean of its largest probabilities: whether h trains it towards the labels."""
        right, confidence = self._generator_on_labeled()
        return {"generator_accuracy": right, "generator_confidence": confidence}

    @torch.no_grad()
    def _generator_on_labeled(self) -> tuple[float, float]:
        shown, right, confidence = self.labeled[:LOOKED_AT], 0.0, 0.0
        for start in range(0, len(shown), 256):
            part = shown[start : start + 256]
            rows = self.encoder.inputs([self.corpus.unlabeled.contents[index] for index in part])
            found = torch.softmax(self.call(self.generator, rows), dim=1)
            confidence += float(found.max(dim=1).values.double().sum())
            right += float(self.granted_mask(part).gather(1, found.argmax(dim=1, keepdim=True)).double().sum())
        return right / len(shown), confidence / len(shown)

    def labels_at(self, indices: Sequence[int]) -> torch.Tensor:
        """What is granted for labeled documents, as `targets_of` has it for a batch: `[N]`."""
        return torch.tensor([self.targets[index] for index in indices], device=self.encoder.device)

    def granted_mask(self, indices: Sequence[int]) -> torch.Tensor:
        """1 for every class that is granted, `[N, L]`."""
        return F.one_hot(self.labels_at(indices), len(self.corpus.labels))

    def _warm_objective(self) -> None:
        """The released code's first phase: h learns to train a generator that is new in every step, judged by the label loss on other documents."""
        rng = np.random.default_rng([self.seed, 2**32])  # a stream that no step has
        optimizer = torch.optim.Adam(self.objective.parameters(), lr=self.options.warm_up_rate)  # its own, as released
        for _ in range(self.options.objective_steps):
            drawn = self.draw_labeled(2 * self.options.batch_size, rng)
            rows, labels = self.encoder.inputs(self.weak_views(drawn, rng)), self.labels_at(drawn)
            parts = rows.split(len(drawn) // 2)
            with torch.random.fork_rng(devices=[]):  # torch's own stream differs between workers
                torch.manual_seed(int(rng.integers(2**63)))
                fresh = virtual(self.net, self.fresh_generator(), parts)
            known, other = labels.split(len(drawn) // 2)
            trained = fresh.stepped(self.generator_loss(fresh.logits(), known), self.generator_rate)
            self.update_objective(self.label_loss(trained.logits(1), other), optimizer)

    def labeled_losses(self, batch: Batch, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        """Lines 4 to 9 of algorithm 1, then the first term of equation 1."""
        options = self.options
        rows, labels = self.encoder.inputs(batch.labeled_views), self.targets_of(batch)
        generator = virtual(self.net, self.generator, [rows])
        stepped: Virtual | None = None
        if options.learned:
            task, stepped = self.virtual_task_loss(generator, rows, labels, options.weight * self.ramped(batch.progress))
            self.update_objective(task)
        if stepped is None or options.form == "paper":  # equation 11: the step again, with the new omega
            stepped = generator.stepped(self.generator_loss(generator.logits(), labels), self.generator_rate, differentiable=False)
        self.generator = {name: value.requires_grad_() for name, value in stepped.parameters().items()}
        with torch.no_grad():
            self._soft_logits = stepped.logits().detach()
        self._logits = logits
        return {"ce": self.label_loss(logits, labels)}

    def unlabeled_losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The second term of equation 1."""
        assert self._logits is not None and self._soft_logits is not None
        options = self.options
        if options.form == "released":
            loss = bidirectional_divergence(self._logits, self._soft_logits, options.temperature)
        else:
            loss = text_to_label(self._logits, self.soft_labels(self._soft_logits, batch))
        return {"seal": options.weight * loss}

    def soft_labels(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Equation 2 from g's logits `[N, L]`: the soft pseudo-labels of the step's labeled documents, `[N, L]`."""
        return torch.softmax(logits, dim=1)

    def ramped(self, progress: float) -> float:
        """min(t / T', 1) of equation 12."""
        return self.ramped_linearly(progress)

    def state(self) -> dict[str, Any]:
        return super().state() | {"generator": {name: value.detach() for name, value in self.generator.items()}}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.generator = {name: value.to(self.encoder.device).requires_grad_() for name, value in state["generator"].items()}
