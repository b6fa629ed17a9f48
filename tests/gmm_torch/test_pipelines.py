"""Pipelines of transformers with verdicts, on small networks with random weights."""

import numpy as np
import pytest
import torch
from PIL import Image

from gmm_torch import FailureDetector, NotFittedError
from gmm_torch.scores import make_score

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

from gmm_torch.pipelines import judging, model_inputs  # noqa: E402 - needs transformers

WORDS = ["[PAD]", "[UNK]", *["rain", "snow", "wind", "bread", "soup", "salt", "goal", "match", "team", "very", "much"]]


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (20, 24, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def sentence(seed: int) -> str:
    draw = np.random.default_rng(seed)
    return " ".join(draw.choice(WORDS[2:], draw.integers(2, 9)))


@pytest.fixture(scope="module")
def images():
    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_sizes": [8], "depths": [1], "layer_type": "basic"}
    labels = {0: "cat", 1: "dog", 2: "owl"}
    config = transformers.ResNetConfig(**sizes, id2label=labels, label2id={name: i for i, name in labels.items()})
    processor = transformers.ViTImageProcessor(size={"height": 16, "width": 16})
    model = transformers.ResNetForImageClassification(config).eval()
    return transformers.pipeline("image-classification", model=model, image_processor=processor, device="cpu")


@pytest.fixture(scope="module")
def texts():
    torch.manual_seed(0)
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(dict(zip(WORDS, range(99), strict=False)), "[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
    sizes = {"vocab_size": len(WORDS), "dim": 16, "n_heads": 2, "n_layers": 1, "hidden_dim": 16}
    model = transformers.DistilBertForSequenceClassification(
        transformers.DistilBertConfig(**sizes, num_labels=3)
    ).eval()
    return transformers.pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")


def fitted(pipe, new, n: int = 140) -> FailureDetector:
    given = [new(seed) for seed in range(n)]
    detector = FailureDetector(pipe.model, score=make_score("log_likelihood", n_components=2), views=1, alpha=0.1)
    return detector.fit(model_inputs(pipe, given[:80])).calibrate(model_inputs(pipe, given[80:]))


@pytest.fixture(scope="module")
def image_detector(images):
    return fitted(images, picture)


@pytest.fixture(scope="module")
def text_detector(texts):
    return fitted(texts, sentence)


def test_images_get_verdicts_beside_the_model_s_own_answers(images, image_detector, tmp_path):
    given = [picture(seed) for seed in range(200, 205)]
    given[0] = Image.fromarray(np.full((20, 24, 3), 255, np.uint8))
    pipe = judging(images, image_detector)
    verdict = image_detector(next(model_inputs(images, given)))
    for batch_size in (1, 3):  # one by one, and together: lists as they are given
        answers = pipe(given, batch_size=batch_size, top_k=2)
        plain = images(given, top_k=2)
        for i, each in enumerate(answers):
            assert [one["label"] for one in each] == [one["label"] for one in plain[i]]
            assert [one["score"] for one in each] == pytest.approx([one["score"] for one in plain[i]], abs=1e-5)
            assert {one["p_value"] for one in each} == {float(verdict.p_value[i])}
            assert {one["accept"] for one in each} == {bool(verdict.accept[i])}
    given[1].save(tmp_path / "one.png")
    (best,) = pipe(str(tmp_path / "one.png"), top_k=1)  # a path, alone
    assert (best.keys(), best["p_value"]) == ({"label", "score", "p_value", "accept"}, float(verdict.p_value[1]))
    assert "p_value" not in images(given[1])[0]  # the pipeline that was given stays as it was


def test_texts_get_verdicts_whatever_they_are_padded_with(texts, text_detector):
    given = [sentence(seed) for seed in range(300, 307)]
    pipe = judging(texts, text_detector)
    (alone,) = pipe(given[0])
    assert alone.keys() == {"label", "score", "p_value", "accept"}
    one_by_one, together = pipe(given), pipe(given, batch_size=7)
    assert [each["label"] for each in one_by_one] == [each["label"] for each in texts(given)]
    assert [each["p_value"] for each in together] == [each["p_value"] for each in one_by_one]
    assert [len(each) for each in pipe(given, top_k=None)] == [3] * 7
    assert pipe({"text": given[0]})["p_value"] == alone["p_value"]


def test_what_no_verdict_is_about_is_refused(images, texts, image_detector, text_detector):
    with pytest.raises(ValueError, match="detector: expected one of the pipeline's model"):
        judging(images, text_detector)
    with pytest.raises(TypeError, match="pipe: expected a ImageClassificationPipeline or"):
        judging(texts.model, text_detector)
    with pytest.raises(NotFittedError):
        judging(images, FailureDetector(images.model))
    texts.model.config.problem_type = "multi_label_classification"
    try:
        with pytest.raises(ValueError, match="pipe: expected a model that chooses one of several labels"):
            judging(texts, text_detector)
    finally:
        texts.model.config.problem_type = None


def test_a_detector_of_the_same_weights_elsewhere_serves(images, image_detector, tmp_path):
    image_detector.save(tmp_path / "d.safetensors")
    images.model.save_pretrained(tmp_path / "model")
    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "model").eval()
    pipe = judging(images, FailureDetector.load(tmp_path / "d.safetensors", model))
    assert pipe(picture(1), top_k=1)[0]["p_value"] == judging(images, image_detector)(picture(1))[0]["p_value"]
