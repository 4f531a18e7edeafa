"""Steps by hand: Tf-KD, CS-KD, PS-KD, DLB and USKD, each from its paper's equations."""

import numpy as np
from few_labels import SHORT, built, each_changes, follow, toy
from few_labels_equations import Classwise, Customized, LastBatch, Progressive, SelfTeacher, TeacherByHand

from selftrain.methods.few_labels.ns3l import NS3LHostOptions

SHARED = NS3LHostOptions.model_fields.keys()


def run(name, cases, hand_of, corpus=None):
    results = []
    for options in cases:
        method = built(name, corpus, **options)
        results.append(follow(method, hand_of(method)))
    return results


def test_tf_kd():
    reg = {"variant": "reg"}
    cases = [reg, reg | {"alpha": 0.9}, reg | {"temperature": 3.0}, reg | {"correct": 0.8}]
    results = run("tf_kd", cases, TeacherByHand)
    twice = [{}, {"alpha": 0.9}, {"temperature": 1.5}, {"ns3l_weight": 0.5, "ns3l_threshold": 0.3}]
    each_changes("tf_kd", cases + twice, results + run("tf_kd", twice, SelfTeacher), SHARED)
    assert built("tf_kd").rounds == 2 * SHORT["rounds"] and built("tf_kd", variant="reg").rounds == SHORT["rounds"]


def test_cs_kd():
    cases = [{}, {"weight": 3.0}, {"weight": 0.0}, {"temperature": 1.0}]
    corpus = toy(labeled=(0, 1, 2, 4, 8, 9))  # three documents of a class, two, and one
    each_changes("cs_kd", cases, run("cs_kd", cases, Classwise, corpus), SHARED)


def test_ps_kd():
    cases = [{}, {"alpha": 0.3}, {"rounds": 3}, {"rounds": 3, "alpha": 0.3}]
    each_changes("ps_kd", cases, run("ps_kd", cases, Progressive), SHARED)


def test_dlb():
    cases = [{"batch_size": 4}, {"batch_size": 5}, {"batch_size": 4, "weight": 3.0}, {"batch_size": 4, "temperature": 1.0}]
    each_changes("dlb", cases, run("dlb", cases, LastBatch), SHARED)


def test_uskd():
    cases = [{}, {"alpha": 0.1}, {"alpha": 3.0}, {"beta": 1.0}, {"beta": 0.0}]
    each_changes("uskd", cases, run("uskd", cases, Customized), SHARED)
    follow(method := built("uskd", toy(classes=4)), Customized(method))  # a class that no document has


def test_two_documents_of_a_class_are_each_others_partners():
    method = built("cs_kd")
    batch = type("Draws", (), {"rng": np.random.default_rng(0)})()
    assert {method.partner(batch, 0) for _ in range(5)} == {1} and {method.partner(batch, 1) for _ in range(5)} == {0}
    assert method.partner(batch, 4) == 4
