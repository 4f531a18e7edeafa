"""The Python way: fit on texts and class names, predict without Ray."""

import subprocess
import sys

import numpy as np
import pytest
from tiny import tiny_backbone

from selftrain import Classifier, SelfTrainer, SelfTrainError

TEXTS = [f"the team and its coach won match {n}" for n in range(10)] + [f"the bank and the market lost profit {n}" for n in range(10)]


@pytest.fixture
def encoder_folder(tmp_path):
    tiny_backbone(tmp_path / "parts").save_pretrained(str(tmp_path / "encoder"))
    return str(tmp_path / "encoder")


def test_fit_predict_and_save(encoder_folder, tmp_path):
    trainer = SelfTrainer(encoder=encoder_folder, method={"rounds": 2, "steps_per_round": 3}).fit(
        [*TEXTS, "", TEXTS[0]], classes=["sport", "business"]
    )
    probabilities = trainer.predict_proba(TEXTS)
    assert probabilities.shape == (20, 2)
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(20), abs=1e-5)
    assert list(trainer.classes_) == ["sport", "business"]
    again = Classifier.load(trainer.save(tmp_path / "saved"))
    assert np.array_equal(again.predict(TEXTS), trainer.predict(TEXTS))


def test_one_class_is_refused(encoder_folder):
    with pytest.raises(SelfTrainError, match="at least two"):
        SelfTrainer(encoder=encoder_folder).fit(TEXTS, classes=["sport"])


def test_predict_needs_no_ray(encoder_folder, tmp_path):
    SelfTrainer(encoder=encoder_folder, method={"rounds": 0}).fit(TEXTS, classes=["sport", "business"]).save(tmp_path / "saved")
    code = f"import sys; from selftrain import Classifier; Classifier.load({str(tmp_path / 'saved')!r}).predict(['a match']); print('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


@pytest.mark.parametrize(
    ("texts", "classes"), [("one string", ["a", "b"]), (["a text"] * 30, "ab"), (["a text"] * 30, {"a": 1, "b": 2}), (b"bytes", ["a", "b"])]
)
def test_one_string_is_no_list(texts, classes):
    with pytest.raises(SelfTrainError, match="not a list"):
        SelfTrainer().fit(texts, classes)
