"""What is asked, and which answers are used."""

import pytest

from selftrain.config import AugmentConfig
from selftrain.data.corpus import Label
from selftrain.data.texts import TextRequest
from selftrain.texts.filter import filter_completion
from selftrain.texts.prompts import Sampling, prompt_for

LABELS = (Label("sport", "sport", "sport"), Label("tech", "technology", "technology and computers"))
DOCUMENT = "The company said on Tuesday that its new phone would be on sale before the end of the year in all of its shops"


def ask(kind, label=-1, style="continue", words=5):
    return prompt_for(TextRequest("id", kind, label), DOCUMENT, LABELS, AugmentConfig(style=style, document_words=words))


def test_a_base_model_continues_the_document():
    assert ask("input").text == "The company said on Tuesday"


def test_conditional_prompts_name_the_class_by_its_description_or_its_name():
    assert ask("conditional", 1).text == "The company said on Tuesday\n\nIn terms of technology and computers,"
    # GenCo's table 4: "Discuss the [label] aspects of the article". A description, such as "a company", makes no sentence there.
    assert ask("conditional", 1, "instruct").text == "Discuss the tech aspects of the article.\n\nThe company said on Tuesday"


ALPACA = "### Instruction: {instruction}\n\n### Input: {input}\n\n### Response:"


def test_a_frame_holds_the_instruction_and_the_document():
    config = AugmentConfig(style="instruct", frame=ALPACA, document_words=3)
    prompt = prompt_for(TextRequest("id", "conditional", 1), "Both {instruction} and {input} are text", LABELS, config)
    assert prompt.text == "### Instruction: Discuss the tech aspects of the article.\n\n### Input: Both {instruction} and\n\n### Response:"
    assert not config.chats and AugmentConfig(style="instruct").chats and not AugmentConfig().chats


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"frame": ALPACA}, r"augment\.style is 'continue'; set augment\.style: instruct"),
        ({"frame": "{input}", "style": "instruct"}, r"augment\.frame must hold \{instruction\} and \{input\}, each once"),
        ({"frame": "{instruction} {input} {input}", "style": "instruct"}, "each once"),
    ],
)
def test_a_frame_that_is_none_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        AugmentConfig(**settings)


def test_the_papers_instruction_for_input_augmentation():
    assert ask("input", style="instruct").text == "Elaborate the text in a few sentences.\n\nThe company said on Tuesday"


def test_classification_must_choose_one_of_the_names():
    assert ask("classify").sampling.choices == (" sport", " tech")
    assert ask("classify", style="instruct").sampling.choices == ("sport", "tech")
    assert "sport, tech" in ask("classify").text


def test_no_single_word_makes_a_prompt_too_long_for_the_engine():
    prompt = prompt_for(TextRequest("id", "input"), "x" * 100_000, LABELS, AugmentConfig())
    assert len(prompt.text) == 40


def test_a_document_without_blanks_is_shown_to_as_many_characters_as_another_to_words():
    text = "公司周二表示,其新手机将于年底前在所有商店发售。"
    assert prompt_for(TextRequest("id", "input"), text, LABELS, AugmentConfig(document_words=8)).text == "公司周二表示,其"
    assert prompt_for(TextRequest("id", "input"), text * 9, LABELS, AugmentConfig(document_words=48)).text == (text * 9)[:48]


@pytest.mark.parametrize(
    ("answer", "document", "expected"),
    [
        ("这部电影非常好看,我很喜欢。", "公司周二表示", ("这部电影非常好看,我很喜欢。", "")),
        ("好。", "公司周二表示", ("", "empty")),
        ("非常好看非常好看非常好看非常好看", "公司周二表示", ("非常好看非常好看非常好看非常好看", "repeated")),
        ("公司周二表示其新手机将发售", "公司周二表示其新手机将发售。", ("公司周二表示其新手机将发售", "echo")),
    ],
)
def test_answers_without_blanks_are_filtered_as_others_are(answer, document, expected):
    found = filter_completion(answer, document, cut_off=False)
    assert (found.text, found.reason) == expected


def test_an_answer_without_blanks_that_was_cut_off_ends_with_its_last_sentence():
    assert filter_completion("这部电影非常好看。演员也很出色,但是", "公司", cut_off=True).text == "这部电影非常好看。"


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ("他说 这部电影非常好看演员也很出色", "他说 这部电影非常好看演员也很出色"),  # before, all behind the only blank was given up
        ("这部电影非常好看 iPho", "这部电影非常好看"),
        ("il a été vu à", "il a été vu"),
    ],
)
def test_an_answer_that_was_cut_off_without_a_sentence_loses_its_last_word_and_no_character_more(answer, kept):
    assert filter_completion(answer, "公司", cut_off=True).text == kept


def test_braces_in_a_document_are_text():
    prompt = prompt_for(TextRequest("id", "input"), "a {document} and {0}", LABELS, AugmentConfig())
    assert prompt.text == "a {document} and {0}"


def test_a_prompt_has_the_document_the_class_and_the_sample():
    prompt = prompt_for(TextRequest("id", "conditional", 1, 3), DOCUMENT, LABELS, AugmentConfig())
    assert (prompt.document_id, prompt.kind, prompt.label, prompt.sample) == ("id", "conditional", "tech", 3)
    assert ask("input").label == ask("classify").label == ""


def test_options_hold_what_is_used_and_nothing_else():
    """They are part of the cache key."""
    assert Sampling(0.8, 32, 8).options() == {"temperature": 0.8, "max_tokens": 32, "min_tokens": 8}
    full = Sampling(0.8, 32, 0, 0.9, ("x",)).options()
    assert full == {"temperature": 0.8, "max_tokens": 32, "min_tokens": 0, "top_p": 0.9, "stop": ["x"]}
    assert ask("classify").sampling.options() == {"temperature": 0.0, "max_tokens": 16, "structured_outputs": {"choice": [" sport", " tech"]}}


def test_the_least_number_of_tokens_is_not_above_the_largest():
    prompt = prompt_for(TextRequest("id", "input"), DOCUMENT, LABELS, AugmentConfig(min_tokens=64, max_tokens=16))
    assert (prompt.sampling.min_tokens, prompt.sampling.max_tokens) == (16, 16)


@pytest.mark.parametrize(
    ("raw", "cut_off", "text", "reason"),
    [
        ("It will cost less. It is blue.", False, "It will cost less. It is blue.", ""),
        ("It will cost less than the last one. It is bl", True, "It will cost less than the last one.", ""),
        ("It will cost less than the last one that was so", True, "It will cost less than the last one that was", ""),
        ("Yes. It will cost less than the last one that was mad", True, "Yes. It will cost less than the last one that was", ""),
        ("", False, "", "empty"),
        (" \n ", True, "", "empty"),
        ("two words", False, "", "empty"),
        ("two words", True, "", "truncated"),
        ("one two thr", True, "", "truncated"),
        ("buy it now buy it now buy it now buy it now", False, "buy it now buy it now buy it now buy it now", "repeated"),
        ("said on Tuesday that its new phone would be on sale", False, "said on Tuesday that its new phone would be on sale", "echo"),
    ],
)
def test_the_filter(raw, cut_off, text, reason):
    found = filter_completion(raw, DOCUMENT, cut_off=cut_off)
    assert (found.text, found.reason) == (text, reason)
